-- The tables of a bucketring policy in PostgreSQL 13 or later, version 1.
--
--   bucketring policy sql | psql "$DATABASE"
--
-- Nodes read them with --policy postgres://... and need only SELECT on them.
-- A row that nodes cannot use changes nothing: each node keeps the policy that
-- it has, and names the row in its log and its /status. What the constraints
-- below can check is refused at once.
--
-- Every change is in force when its transaction is committed and the nodes were
-- told, usually within a second. To change several rows together, use one
-- transaction. Running this again changes no rows.
BEGIN;
SET LOCAL client_min_messages = warning;

-- Tiers are named sets of limits.
CREATE TABLE IF NOT EXISTS bucketring_tiers (
    name                   text PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'),
    zone                   text, -- IANA time zone of days, weeks and months; NULL: UTC
    -- What a reservation holds for output that is not known yet; NULL: max.
    estimate               text CHECK (estimate IN ('max', 'input', 'fixed')),
    estimate_output_tokens bigint CHECK (estimate_output_tokens >= 0), -- for estimate fixed
    -- Send calls without a bound with the default output as their bound.
    bound_output           boolean NOT NULL DEFAULT false,
    CHECK ((estimate IS NOT DISTINCT FROM 'fixed') = (estimate_output_tokens IS NOT NULL))
);

-- Limits of tiers, as in the long form of a policy file; NULL is the default.
CREATE TABLE IF NOT EXISTS bucketring_limits (
    tier        text NOT NULL REFERENCES bucketring_tiers ON UPDATE CASCADE ON DELETE CASCADE,
    name        text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'),
    dimension   text NOT NULL, -- requests, tokens, input_tokens, output_tokens, spend, concurrent, or your own
    amount      numeric NOT NULL CHECK (amount >= 0 AND amount < 1e16), -- of spend: dollars
    period      text, -- the window: second, minute, hour, day, week, month, year, or a duration such as 30s; NULL for concurrent
    starts      text, -- of a month: the day it begins, such as 15; of a day: the time, such as 09:00
    burst       numeric CHECK (burst > 0 AND burst < 1e16),
    algorithm   text CHECK (algorithm IN ('token_bucket', 'sliding_window', 'fixed_window', 'concurrency')),
    on_exceed   text CHECK (on_exceed IN ('reject', 'degrade')),
    mode        text CHECK (mode IN ('enforce', 'shadow')),
    unreachable text CHECK (unreachable IN ('share', 'closed', 'open')),
    durability  text CHECK (durability IN ('sync', 'async')),
    show        boolean,
    slices      text CHECK (slices IN ('nodes', 'clients', 'off')),
    models      text[] CHECK (cardinality(models) > 0), -- names or patterns, each with a bucket of its own; NULL: one for all
    PRIMARY KEY (tier, name),
    CHECK (dimension = 'concurrent' OR period IS NOT NULL),
    CHECK (dimension = 'spend' OR amount = trunc(amount) AND coalesce(burst = trunc(burst), true))
);

-- What tables of earlier versions lack.
ALTER TABLE bucketring_tiers
    -- The share of a key of the tier among those who wait at a limit; NULL: 1.
    ADD COLUMN IF NOT EXISTS weight           integer CHECK (weight BETWEEN 1 AND 1000),
    -- The class of calls that name none, and the most urgent that they may name; NULL: standard, and interactive.
    ADD COLUMN IF NOT EXISTS default_priority text CHECK (default_priority IN ('interactive', 'standard', 'batch')),
    ADD COLUMN IF NOT EXISTS highest_priority text CHECK (highest_priority IN ('interactive', 'standard', 'batch'));
ALTER TABLE bucketring_limits
    ADD COLUMN IF NOT EXISTS max_wait          text, -- how long a call may wait, such as 5s; NULL: no call waits
    ADD COLUMN IF NOT EXISTS max_depth         bigint CHECK (max_depth BETWEEN 1 AND 1000000), -- how many calls may wait; NULL: 1000
    -- What calls of a class leave free, such as 10%; NULL: 0%, and for batch as for standard.
    ADD COLUMN IF NOT EXISTS headroom_standard text CHECK (headroom_standard ~ '^[0-9]{1,2}([.][0-9]{1,4})?%$'),
    ADD COLUMN IF NOT EXISTS headroom_batch    text CHECK (headroom_batch ~ '^[0-9]{1,2}([.][0-9]{1,4})?%$');

-- Who has which tier. The most specific rule wins: an exact key, then the longest pattern.
CREATE TABLE IF NOT EXISTS bucketring_assignments (
    key  text PRIMARY KEY CHECK (octet_length(key) BETWEEN 1 AND 256), -- acme/alice, or a pattern such as acme/*
    tier text NOT NULL REFERENCES bucketring_tiers ON UPDATE CASCADE
);

-- Who calls through a proxy: SHA-256 of API keys, as "bucketring policy hash-key" prints them.
CREATE TABLE IF NOT EXISTS bucketring_api_keys (
    hash text PRIMARY KEY CHECK (hash ~ '^sha256:[0-9a-f]{64}$'),
    key  text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 256), -- who is charged, such as acme/alice
    tier text REFERENCES bucketring_tiers ON UPDATE CASCADE -- NULL: as assigned
);

-- Limits of single keys that differ from those of their tiers until a time. What was used is kept.
CREATE TABLE IF NOT EXISTS bucketring_overrides (
    key        text NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 256), -- a key, no pattern
    limit_name text NOT NULL CHECK (limit_name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'), -- the name of a limit of the tier of the key
    value      text NOT NULL, -- an amount, or an amount and a window, such as 500_000/min or $20/day
    until      text NOT NULL, -- 2026-12-24, at whose beginning it ends in the zone of the tier, or 2026-12-24T18:00:00Z
    reason     text CHECK (octet_length(reason) <= 256 AND reason !~ '[[:cntrl:]]'),
    PRIMARY KEY (key, limit_name)
);

-- Prices of models in US dollars, per million tokens or, from request on, for each.
CREATE TABLE IF NOT EXISTS bucketring_prices (
    model          text PRIMARY KEY, -- a name or a pattern; * is for all others
    input          numeric NOT NULL CHECK (input >= 0 AND input < 1e10),
    output         numeric NOT NULL CHECK (output >= 0 AND output < 1e10),
    cached_input   numeric CHECK (cached_input >= 0 AND cached_input < 1e10), -- NULL: as input
    cache_write    numeric CHECK (cache_write >= 0 AND cache_write < 1e10), -- NULL: as input
    cache_write_1h numeric CHECK (cache_write_1h >= 0 AND cache_write_1h < 1e10), -- NULL: as input
    request        numeric CHECK (request >= 0 AND request < 1e10),
    image          numeric CHECK (image >= 0 AND image < 1e10),
    search         numeric CHECK (search >= 0 AND search < 1e10),
    service_tiers  jsonb CHECK (jsonb_typeof(service_tiers) = 'object') -- factors, such as {"flex": 0.5}
);

-- What else depends on the model.
CREATE TABLE IF NOT EXISTS bucketring_models (
    model                 text PRIMARY KEY, -- a name or a pattern
    weight_input          numeric CHECK (weight_input BETWEEN 0 AND 1000), -- how much of a quota token one token counts
    weight_cached_input   numeric CHECK (weight_cached_input BETWEEN 0 AND 1000),
    weight_output         numeric CHECK (weight_output BETWEEN 0 AND 1000),
    default_output_tokens bigint CHECK (default_output_tokens >= 0),
    bound_output          boolean
);

-- The other keys of a policy file.
CREATE TABLE IF NOT EXISTS bucketring_settings (
    name  text PRIMARY KEY CHECK (name IN ('default_tier', 'default_output_tokens')),
    value text NOT NULL
);

-- Which rows changed, for the nodes; written by the triggers below. A node asks for
-- what was committed since its last snapshot, and reads those rows again.
-- keys is the primary key of the row; NULL: any row of the table may have changed.
CREATE TABLE IF NOT EXISTS bucketring_changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid     xid8 NOT NULL, -- the transaction
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    tab     text NOT NULL,
    keys    text[]
);
CREATE INDEX IF NOT EXISTS bucketring_changes_xid ON bucketring_changes (xid);

-- One row. version is that of these tables; pruned is the last transaction whose changes
-- are no longer listed: who has not seen it reads everything.
CREATE TABLE IF NOT EXISTS bucketring_state (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    pruned  xid8 NOT NULL
);
INSERT INTO bucketring_state (version, pruned) VALUES (1, '0') ON CONFLICT DO NOTHING;

-- Notes a change and tells the nodes. The arguments are the columns of the primary key.
-- It runs with the rights of its owner, so that who may change a table needs no others.
CREATE OR REPLACE FUNCTION bucketring_changed() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changes text := format('%I.bucketring_changes', TG_TABLE_SCHEMA);
    state   text := format('%I.bucketring_state', TG_TABLE_SCHEMA);
    many    constant integer := 1000; -- from here on, the table as a whole
    cols    text;
    rows    text;
    found   bigint := many;
    last    xid8;
BEGIN
    SELECT string_agg(format('%I::text', a), ', ') INTO cols FROM unnest(TG_ARGV) a;
    rows := CASE TG_OP
        WHEN 'INSERT' THEN format('SELECT ARRAY[%s] AS k FROM inserted', cols)
        WHEN 'DELETE' THEN format('SELECT ARRAY[%s] AS k FROM deleted', cols)
        WHEN 'UPDATE' THEN format('SELECT ARRAY[%1$s] AS k FROM deleted UNION SELECT ARRAY[%1$s] FROM inserted', cols)
    END;
    IF TG_OP <> 'TRUNCATE' THEN
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM (%s) r LIMIT %s) n', rows, many) INTO found;
    END IF;
    IF found = 0 THEN
        RETURN NULL;
    ELSIF found < many THEN
        EXECUTE format('INSERT INTO %s (xid, tab, keys) SELECT pg_current_xact_id(), $1, k FROM (%s) r', changes, rows) USING TG_TABLE_NAME;
    ELSE
        EXECUTE format('INSERT INTO %s (xid, tab) VALUES (pg_current_xact_id(), $1)', changes) USING TG_TABLE_NAME;
    END IF;
    PERFORM pg_notify('bucketring_policy', TG_TABLE_SCHEMA);

    -- Forget changes of an hour ago, a few at a time. No one waits for the lock, and no
    -- transaction fails because of it.
    IF current_setting('transaction_isolation') = 'read committed' THEN
        EXECUTE format('SELECT pruned FROM %s FOR UPDATE SKIP LOCKED', state) INTO last;
        IF last IS NOT NULL THEN
            EXECUTE format('WITH old AS (SELECT id FROM %1$s ORDER BY id LIMIT 2000), gone AS (
                DELETE FROM %1$s c USING old WHERE c.id = old.id AND c.at < now() - interval ''1 hour''
                AND c.xid < pg_snapshot_xmin(pg_current_snapshot()) RETURNING c.xid)
                SELECT max(xid::text::numeric)::text::xid8 FROM gone', changes) INTO last;
            IF last IS NOT NULL THEN
                EXECUTE format('UPDATE %s SET pruned = $1 WHERE pruned < $1', state) USING last;
            END IF;
        END IF;
    END IF;
    RETURN NULL;
END $$;

DO $$
DECLARE t record;
BEGIN
    FOR t IN VALUES ('tiers', 'name'), ('limits', 'tier, name'), ('assignments', 'key'), ('api_keys', 'hash'), ('overrides', 'key, limit_name'),
        ('prices', 'model'), ('models', 'model'), ('settings', 'name')
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS bucketring_inserted ON bucketring_%1$s;
            DROP TRIGGER IF EXISTS bucketring_updated ON bucketring_%1$s;
            DROP TRIGGER IF EXISTS bucketring_deleted ON bucketring_%1$s;
            DROP TRIGGER IF EXISTS bucketring_truncated ON bucketring_%1$s;
            CREATE TRIGGER bucketring_inserted AFTER INSERT ON bucketring_%1$s REFERENCING NEW TABLE AS inserted
                FOR EACH STATEMENT EXECUTE FUNCTION bucketring_changed(%2$s);
            CREATE TRIGGER bucketring_updated AFTER UPDATE ON bucketring_%1$s REFERENCING OLD TABLE AS deleted NEW TABLE AS inserted
                FOR EACH STATEMENT EXECUTE FUNCTION bucketring_changed(%2$s);
            CREATE TRIGGER bucketring_deleted AFTER DELETE ON bucketring_%1$s REFERENCING OLD TABLE AS deleted
                FOR EACH STATEMENT EXECUTE FUNCTION bucketring_changed(%2$s);
            CREATE TRIGGER bucketring_truncated AFTER TRUNCATE ON bucketring_%1$s
                FOR EACH STATEMENT EXECUTE FUNCTION bucketring_changed(%2$s);',
            t.column1, t.column2);
    END LOOP;
END $$;

COMMIT;
