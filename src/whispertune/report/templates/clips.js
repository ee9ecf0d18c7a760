"use strict";
(() => {
  const list = document.getElementById("clips");
  if (!list) return;
  const step = 15, clips = Array.from(list.children), kept = `whispertune marks ${location.pathname} ${document.title}`;
  const [sort, search, playable, markedOnly, count, more, marks, markedCount, save, copy] = [
    "sort", "search", "playable", "marked-only", "count", "more", "marks", "marked-count", "save-marks", "copy-marks",
  ].map((id) => document.getElementById(id));
  const box = (clip) => clip.querySelector(".mark input");
  let shown = step;
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = clips.filter((clip) => words.every((word) => clip.dataset.text.includes(word))
      && (!playable.checked || clip.querySelector("audio")) && (!markedOnly.checked || box(clip).checked));
    found.sort((a, b) => Number(b.dataset[sort.value] || 0) - Number(a.dataset[sort.value] || 0));
    list.replaceChildren(...found.slice(0, shown));
    count.textContent = `${Math.min(shown, found.length)} of ${found.length} shown`;
    more.hidden = found.length <= shown;
  };
  const restart = () => { shown = step; update(); };
  for (const control of [sort, search, playable, markedOnly]) control.addEventListener("input", restart);
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

  const marked = () => clips.filter((clip) => box(clip).checked);
  const cell = (text) => `"${text.replaceAll('"', '""')}"`;
  const table = () => ["id,text,reason", ...marked().map(
    (clip) => [clip.dataset.id, clip.dataset.reference, "transcript wrong"].map(cell).join(","))].join("\r\n") + "\r\n";
  const remember = () => {  // so that a reload forgets nothing; where a browser stores nothing, marks still work
    try { localStorage.setItem(kept, JSON.stringify(marked().map((clip) => clip.dataset.id))); } catch { /* as it is */ }
  };
  const recall = () => {
    try { return new Set(JSON.parse(localStorage.getItem(kept) || "[]")); } catch { return new Set(); }
  };
  const showMarks = () => {
    const number = marked().length;
    markedCount.textContent = number === 0 ? "No transcript is marked as wrong."
      : number === 1 ? "1 transcript is marked as wrong." : `${number} transcripts are marked as wrong.`;
    save.disabled = copy.disabled = number === 0;
  };
  const before = recall();
  for (const clip of clips) {
    box(clip).checked = before.has(clip.dataset.id);
    box(clip).parentElement.hidden = false;
    box(clip).addEventListener("input", () => { remember(); showMarks(); });
  }
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = "marked.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(table());
      markedCount.textContent = "Copied: paste it into a file named marked.csv.";
    } catch { markedCount.textContent = "This browser does not allow copying from a file: save it instead."; }
  });
  window.addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details")) fold.open = true; });
  document.querySelector(".controls").hidden = marks.hidden = false;
  showMarks();
  update();
})();
