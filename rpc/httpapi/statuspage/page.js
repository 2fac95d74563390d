
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
async function run() {
  await refresh();
  setTimeout(run, 2000);
}
setTimeout(run, 2000);
document.addEventListener('visibilitychange', refresh);
