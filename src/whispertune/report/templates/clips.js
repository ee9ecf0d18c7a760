"use strict";
(() => {
  const list = document.getElementById("clips");
  if (!list) return;
  const step = 15, clips = Array.from(list.children);
  const [sort, search, playable, count, more] = ["sort", "search", "playable", "count", "more"].map(
    (id) => document.getElementById(id));
  let shown = step;
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = clips.filter((clip) => words.every((word) => clip.dataset.text.includes(word))
      && (!playable.checked || clip.querySelector("audio")));
    found.sort((a, b) => Number(b.dataset[sort.value] || 0) - Number(a.dataset[sort.value] || 0));
    list.replaceChildren(...found.slice(0, shown));
    count.textContent = `${Math.min(shown, found.length)} of ${found.length} shown`;
    more.hidden = found.length <= shown;
  };
  const restart = () => { shown = step; update(); };
  for (const control of [sort, search, playable]) control.addEventListener("input", restart);
  more.addEventListener("click", () => {
    const first = shown;
    shown += 50;
    update();
    const next = list.children[first];
    if (next) { next.tabIndex = -1; next.focus(); }
  });
  list.addEventListener("play", (event) => {  // one at a time
    for (const other of list.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);
  window.addEventListener("beforeprint", () => { for (const box of document.querySelectorAll("details")) box.open = true; });
  document.querySelector(".controls").hidden = false;
  update();
})();
