
'use strict';
// Refreshes the page every 2 s. Only parts that changed are replaced, so that a
// selection, a scroll position and the focus stay.
let lastAnswer = new Date();
async function refresh() {
  if (document.hidden) return;
  const stale = document.getElementById('stale');
  try {
    const answer = await fetch('/status', {headers: {Accept: 'text/html'}, cache: 'no-store', signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error(answer.statusText);
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const code = page => page.querySelector('style').textContent + page.querySelector('script').textContent;
    if (code(next) !== code(document)) return location.reload(); // the node was upgraded
    document.title = next.title;
    for (const now of next.querySelectorAll('[data-live]')) {
      const old = document.querySelector(`[data-live="${now.dataset.live}"]`);
      if (!old) return location.reload();
      if (old.isEqualNode(now)) continue;
      const focus = old.contains(document.activeElement) && document.activeElement.id;
      old.replaceWith(now);
      if (focus) document.getElementById(focus)?.focus({preventScroll: true});
    }
    lastAnswer = new Date();
    stale.hidden = true;
  } catch {
    const text = `No answer from this node since ${lastAnswer.toLocaleTimeString()}. The page is out of date.`;
    if (stale.hidden || stale.textContent !== text) stale.textContent = text;
    stale.hidden = false;
  }
}

// Looks up a key. All texts are set as text, so no answer can become markup.
const found = document.getElementById('found');
function add(parent, name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}
const amountOf = (limit, n) => limit.dimension === 'spend'
  ? '$' + (n / 1e6).toLocaleString('en', {minimumFractionDigits: 2, maximumFractionDigits: 6}) : n.toLocaleString('en');
const routes = {
  fallback: owner => ` This is what ${owner} would decide by alone, because no owner of the key could answer in time. What the owner has counted is not in it.`,
  slice: owner => ` The node answered from memory, with the limits as ${owner}, the owner of the key, has lent them.`,
};
function showLimits(key, answer) {
  const intro = add(found, 'p');
  add(intro, 'bdi', key);
  intro.append(answer.tier ? ' has tier ' : ' has no tier');
  if (answer.tier) add(intro, 'bdi', answer.tier);
  intro.append(`. Answered by ${answer.owner}.${routes[answer.route]?.(answer.owner) ?? ''}`);
  if (!answer.limits.length) return add(found, 'p', 'No limits apply.');
  const region = add(found, 'div', undefined, {class: 'wide', role: 'region', 'aria-label': `Limits of ${key}`, tabindex: 0});
  const table = add(region, 'table');
  const head = add(add(table, 'thead'), 'tr');
  for (const name of ['Name', 'Scope', 'Remaining', 'Limit', 'Left', 'Resets'])
    add(head, 'th', name, {scope: 'col', ...(name === 'Remaining' || name === 'Limit' ? {class: 'number'} : {})});
  const body = add(table, 'tbody');
  for (const limit of answer.limits) {
    const row = add(body, 'tr');
    const name = limit.name === limit.dimension ? limit.name : `${limit.name} (${limit.dimension})`;
    add(row, 'th', name + (limit.shadow ? ', shadow' : ''), {scope: 'row'});
    add(row, 'td', limit.scope);
    add(row, 'td', limit.debt ? '-' + amountOf(limit, limit.debt) : amountOf(limit, limit.remaining), {class: 'number'});
    add(row, 'td', amountOf(limit, limit.limit), {class: 'number'});
    add(add(row, 'td'), 'meter', undefined, {min: 0, max: Math.max(limit.limit, limit.remaining, 1), low: limit.limit / 5, value: limit.remaining, 'aria-label': `what remains of ${limit.name}`});
    const reset = add(row, 'td', limit.reset_at ? undefined : '-');
    if (limit.reset_at) add(reset, 'time', new Date(limit.reset_at).toLocaleString(), {datetime: limit.reset_at});
  }
}
async function lookUp(event) {
  event.preventDefault();
  const fields = [...new FormData(event.target)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
  const query = new URLSearchParams(fields);
  const fail = text => add(found, 'p', text, {class: 'alarm'});
  try {
    const answer = await fetch('/v1/limits?' + query, {headers: {Accept: 'application/json'}, cache: 'no-store', signal: AbortSignal.timeout(5000)});
    const said = await answer.json().catch(() => ({}));
    found.replaceChildren();
    if (answer.ok) showLimits(query.get('key'), said);
    else fail(said.message || `The node answered ${answer.status} ${answer.statusText}.`);
  } catch {
    found.replaceChildren();
    fail('The node did not answer. Try again.');
  }
}
document.getElementById('search').addEventListener('submit', lookUp);

async function run() {
  await refresh();
  setTimeout(run, 2000);
}
setTimeout(run, 2000);
document.addEventListener('visibilitychange', refresh);
