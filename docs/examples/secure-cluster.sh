#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From nothing to three nodes and two proxies with TLS, tokens, and limits in PostgreSQL, on
# this machine. It runs until it is interrupted; its files are in the directory ./secure.
#
#   DATABASE=postgres://user:password@db.example.org/limits docs/examples/secure-cluster.sh
#
# It needs bucketring and psql in the PATH, and an empty database. UPSTREAM is the model
# server; without it, one that answers with meaningless words is started.
set -euo pipefail
: "${DATABASE:?set it to the URL of an empty PostgreSQL database}"
umask 077
mkdir secure
cd secure
trap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT
trap 'exit 0' INT TERM

# Certificates: one authority for the cluster, another for those who call the proxies, so
# that the certificate of a proxy is not that of a member.
bucketring certs init --dir cluster
bucketring certs issue node1 node2 node3 --dir cluster
bucketring certs issue --client proxies --dir cluster
bucketring certs init --dir public --name "proxies"
bucketring certs issue proxy1 proxy2 --dir public

# Gossip is encrypted. The proxies are known by their certificate, operators by a token, of
# which the nodes have only the hash.
head -c 32 /dev/urandom | base64 > cluster.key
cat > auth.yaml <<CALLERS
callers:
- name: proxies
  certificates: ["bucketring://client/proxies"]
  scopes: [call]
CALLERS
bucketring auth token --name ops --scopes call,read,admin --out ops.token >> auth.yaml

# Limits, and the API key of one user, in the database.
head -c 32 /dev/urandom | base64 > alice.key
cat > policy.yaml <<POLICY
tiers:
  standard: { requests: 60/min, tokens: 100_000/min, concurrent: 10, spend: \$50/day }
assign:
  - { key: "acme/*", tier: standard }
prices:
  "*": { input: 1.00, output: 3.00 }
api_keys:
  $(bucketring policy hash-key --key acme/alice < alice.key)
POLICY
bucketring policy sql | psql --quiet --set ON_ERROR_STOP=1 "$DATABASE"
bucketring policy import --to "$DATABASE" policy.yaml

nodes=127.0.0.1:6472,127.0.0.1:6482,127.0.0.1:6492
for i in 1 2 3; do
	bucketring serve --name node$i --http 127.0.0.1:$((6460 + 10 * i)) --grpc 127.0.0.1:$((6461 + 10 * i)) --gossip 127.0.0.1:$((6462 + 10 * i)) \
		--join $nodes --bootstrap-expect 3 --cluster-key-file cluster.key \
		--tls required --tls-ca-file cluster/ca.crt --tls-cert-file cluster/node$i.crt --tls-key-file cluster/node$i.key \
		--auth auth.yaml --policy "$DATABASE" --data node$i --audit-log audit$i.log --usage-log usage$i.log 2> node$i.log &
done

if [[ -z ${UPSTREAM-} ]]; then
	UPSTREAM=http://127.0.0.1:9000
	bucketring mock-llm --listen 127.0.0.1:9000 2> mock-llm.log &
fi
for i in 1 2; do
	bucketring proxy --listen 127.0.0.1:$((8442 + i)) --admin 127.0.0.1:$((6500 + i)) --upstream "$UPSTREAM" --identity bearer --policy "$DATABASE" \
		--tls required --tls-cert-file public/proxy$i.crt --tls-key-file public/proxy$i.key \
		--servers 127.0.0.1:6471,127.0.0.1:6481,127.0.0.1:6491 --servers-tls --servers-ca-file cluster/ca.crt \
		--servers-cert-file cluster/proxies.crt --servers-key-file cluster/proxies.key 2> proxy$i.log &
done

for i in 1 2 3; do
	bucketring health --safe --wait 60s --http https://127.0.0.1:$((6460 + 10 * i)) --tls-ca-file cluster/ca.crt
done
for i in 1 2; do
	bucketring health --ready --wait 60s --http https://127.0.0.1:$((6500 + i)) --tls-ca-file public/ca.crt
done
cat <<'READY'
ready. In the directory secure:
  curl --cacert public/ca.crt https://localhost:8443/v1/chat/completions -H "Authorization: Bearer $(cat alice.key)" -d '{"model":"m","max_tokens":20,"messages":[{"role":"user","content":"hi"}]}'
  bucketring limits acme/alice --server localhost:6471 --tls-ca-file cluster/ca.crt --token-file ops.token
  psql "$DATABASE" -c "UPDATE bucketring_limits SET amount = 0 WHERE tier = 'standard' AND name = 'requests'"
READY
wait
