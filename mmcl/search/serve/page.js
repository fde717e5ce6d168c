// The page of `mmcl search --serve`. What comes from the collection is only ever set as text, never as HTML.

const about = JSON.parse(document.body.dataset.about);
const $ = (id) => document.getElementById(id);
const text = $("text"), hits = $("hits"), status = $("status");

// What is asked: pieces are {modality, file, url} or {modality, like, label}, each with its weight; the words are the input's.
const state = { pieces: [], words: 1, where: [] };
let running = null;

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((one) => one !== null));
  return made;
}

function button(label, clicked, properties = {}) {
  const made = element("button", { type: "button", textContent: label, ...properties });
  made.addEventListener("click", clicked);
  return made;
}

const kindOf = (modality) => about.kinds[modality];
const among = () => document.querySelector("input[name=among]:checked").value;
const words = () => (text ? text.value.trim() : "");
const wordsModality = () => ($("text-modality") ? $("text-modality").value : about.asks.text[0]);

// ---- the query --------------------------------------------------------------------------------------------------

function weighed(piece, name, changed) {
  const said = element("output", { textContent: piece.weight.toFixed(2) });
  const slider = element("input", { type: "range", min: -1, max: 1, step: 0.05, value: piece.weight, "aria-label": `weight of ${name}` });
  const row = element("div", { className: "weight" }, "weight", slider, said);
  slider.addEventListener("input", () => {
    changed(Number(slider.value));
    said.textContent = Number(slider.value).toFixed(2);
    row.classList.toggle("away", slider.value < 0);
  });
  slider.addEventListener("change", () => search());
  row.classList.toggle("away", piece.weight < 0);
  return row;
}

function preview(piece) {
  const source = piece.url ?? (piece.picture ? `/media/${piece.like}/${encodeURIComponent(piece.picture)}` : null);
  if (source && (piece.picture || kindOf(piece.modality) === "image")) {
    const shown = element("img", { className: "shown", src: source, alt: "" });
    shown.addEventListener("error", () => shown.replaceWith(element("span", { className: "shown", textContent: "?" })));
    return shown;
  }
  return element("span", { className: "shown", textContent: { audio: "♪", text: "“" }[kindOf(piece.modality)] ?? "≈", "aria-hidden": "true" });
}

function choice(piece) { // of the modality, where a model has several towers of a kind
  const names = about.asks[kindOf(piece.modality)];
  if (names.length < 2) return element("small", { textContent: piece.modality });
  const made = element("select", { "aria-label": `what ${piece.label} is` }, ...names.map((name) => element("option", { textContent: name, selected: name === piece.modality })));
  made.addEventListener("change", () => { piece.modality = made.value; search(); });
  return made;
}

function drawPiece(piece, index, alone) {
  const what = element("div", {}, element("span", { className: "what", textContent: piece.label }));
  what.append(piece.file ? choice(piece) : element("small", { textContent: `more like its ${piece.modality}` }));
  if (piece.file && kindOf(piece.modality) === "audio") what.append(element("audio", { controls: true, src: piece.url }));
  const remove = button("×", () => {
    if (piece.url) URL.revokeObjectURL(piece.url);
    state.pieces.splice(index, 1);
    drawQuery();
    search();
  }, { className: "x", "aria-label": `remove ${piece.label}` });
  const weight = alone ? element("span") : weighed(piece, piece.label, (value) => (piece.weight = value));
  return element("li", {}, preview(piece), what, weight, remove);
}

function drawQuery() {
  const rows = [];
  const joint = state.pieces.length + (words() ? 1 : 0) > 1;
  if (words() && joint) {
    const label = element("div", {}, element("span", { className: "what", textContent: words() }), element("small", { textContent: wordsModality() }));
    const remove = button("×", () => { text.value = ""; drawQuery(); search(); }, { className: "x", "aria-label": "remove the words" });
    rows.push(element("li", {}, preview({ modality: wordsModality() }), label, weighed({ weight: state.words }, "the words", (value) => (state.words = value)), remove));
  }
  state.pieces.forEach((piece, index) => rows.push(drawPiece(piece, index, !joint)));
  $("pieces").replaceChildren(...rows);
  $("filters").replaceChildren(...state.where.map(([column, op, value], index) => element(
    "li", {}, `${column} ${op} ${value}`,
    button("×", () => { state.where.splice(index, 1); drawQuery(); search(); }, { className: "x", "aria-label": `remove the filter ${column} ${op} ${value}` }),
  )));
}

function addFilter(column, op, value) {
  if (!state.where.some((one) => one.join("\n") === [column, op, value].join("\n"))) state.where.push([column, op, value]);
  drawQuery();
  search();
}

function kindOfFile({ type, name }) { // browsers do not know every type; the server looks at the bytes
  const known = ["image", "audio"].find((kind) => type.startsWith(`${kind}/`));
  if (known) return known;
  return /\.(wav|flac|og[ga]|opus|mp3|aiff?)$/i.test(name) ? "audio" : /\.(jpe?g|png|gif|webp|avif|bmp|tiff?)$/i.test(name) ? "image" : null;
}

function addFiles(files) {
  const told = [];
  for (const file of files) {
    const modality = (about.asks[kindOfFile(file)] ?? [])[0];
    if (!modality) told.push(`${file.name} cannot be searched with: drop ${["image", "audio"].filter((one) => about.asks[one].length).map((one) => ({ image: "a picture", audio: "a sound" })[one]).join(" or ") || "nothing"}.`);
    else if (file.size > about.limits.upload) told.push(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MB; up to ${about.limits.upload / 2 ** 20} MB can be searched with.`);
    else state.pieces.push({ modality, file, label: file.name, url: URL.createObjectURL(file), weight: 1 });
  }
  drawQuery();
  if (told.length) fail(told.join("\n"));
  else search();
}

function like(hit, modality) {
  for (const piece of state.pieces) if (piece.url) URL.revokeObjectURL(piece.url);
  state.pieces = [likePiece(hit.row, modality, 1, hit)];
  if (text) text.value = "";
  drawQuery();
  search();
  window.scrollTo({ top: 0 });
}

function likePiece(row, modality, weight, hit = null) {
  const picture = Object.keys(hit?.media ?? {}).find((one) => kindOf(one) === "image") ?? (kindOf(modality) === "image" ? modality : null);
  return { modality, like: row, label: hit ? hit.caption || hit.key : `sample ${row}`, picture, weight };
}

// ---- asking -----------------------------------------------------------------------------------------------------

function form() {
  const pieces = words() ? [{ modality: wordsModality(), text: words(), weight: state.words }] : [];
  const sent = new FormData();
  state.pieces.forEach((piece, index) => {
    const { modality, weight } = piece;
    if (piece.file) sent.append(`file${index}`, piece.file);
    pieces.push(piece.file ? { modality, file: `file${index}`, weight } : { modality, like: piece.like, weight });
  });
  if (pieces.length === 1) pieces[0].weight = 1; // whose slider is not shown
  const where = state.where.map(([column, op, value]) => ({ column, op, value }));
  sent.append("query", JSON.stringify({ pieces, among: among(), k: Number($("k").value), where }));
  return sent;
}

async function search({ remember = true } = {}) {
  if (remember) history.pushState(null, "", address());
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  hits.setAttribute("aria-busy", "true");
  status.textContent = "Searching …";
  $("error").hidden = true;
  try {
    const answer = await fetch("/api/search", { method: "POST", body: form(), signal });
    const said = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
    if (signal.aborted) return;
    if (answer.ok) show(said);
    else fail(said.error);
  } catch (error) {
    if (error.name !== "AbortError") fail("The server does not answer. Is `mmcl search --serve` still running?");
  } finally {
    if (!signal.aborted) hits.removeAttribute("aria-busy");
  }
}

function fail(told) {
  $("error").textContent = told;
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" });
  status.textContent = "";
  hits.replaceChildren();
}

// ---- the results ------------------------------------------------------------------------------------------------

function show(found) {
  const count = found.hits.length.toLocaleString("en");
  const asked = words() || state.pieces.length;
  const own = state.pieces.some((piece) => piece.file) ? " A link to this search does not carry the files." : "";
  if (!found.hits.length) status.textContent = state.where.length ? "Nothing passes the filters. Remove one, or look at how its column is written in a sample's details." : "Nothing was found.";
  else if (asked) status.textContent = `The ${count} nearest by ${among()}, in ${(1000 * found.seconds).toFixed(0)} ms.${own}`;
  else status.textContent = `${count} samples from all over the collection. ${text ? "Say what to look for" : "Drop something to look for"}, or pick one to see more like it.`;
  hits.replaceChildren(...found.hits.map((hit, index) => card(hit, index, asked)));
}

function card(hit, index, ranked) {
  const name = hit.caption || hit.key;
  const body = element("div", { className: "body" });
  if (hit.caption) body.append(element("p", { className: Object.keys(hit.media).length ? "caption" : "caption alone", textContent: hit.caption }));
  body.append(
    element("p", { className: "facts" },
      ranked ? element("b", { textContent: index + 1, title: "rank" }) : null,
      ranked ? element("span", { textContent: hit.score.toFixed(3), title: "score: the cosine of the query and this" }) : null,
      element("span", { className: "key", textContent: hit.key, title: `key ${hit.key}` })),
    element("div", { className: "row" },
      button("More like this", () => like(hit, among()), { "aria-label": `more like ${name}` }),
      button("Details", () => open(hit, ranked), { "aria-label": `details of ${name}` })));
  return element("li", { className: "hit" }, ...media(hit, name), body);
}

function media(hit, name, preload = "none") {
  return Object.entries(hit.media).map(([modality, url]) => (kindOf(modality) === "image"
    ? picture(url, name)
    : element("audio", { controls: true, preload, src: url, "aria-label": `${modality} of ${name}` })));
}

function open(hit, ranked) {
  const dialog = $("details"), name = hit.caption || hit.key;
  const said = Object.fromEntries(Object.entries(hit.columns).filter(([column, value]) => value !== null && !column.startsWith("has_"))); // which is seen
  const there = about.searched.filter((modality) => hit.columns[`has_${modality}`] !== false);
  $("sample").replaceChildren(
    ...media(hit, name, "metadata"),
    element("h2", { textContent: hit.key }),
    hit.caption ? element("p", { className: "caption", textContent: hit.caption }) : "",
    element("div", { className: "row" }, ...there.map((modality) => button(`More like its ${modality}`, () => { dialog.close(); like(hit, modality); }))),
    pairs({ ...(ranked ? { score: hit.score.toFixed(4) } : {}), ...said }));
  dialog.showModal();
  dialog.scrollTop = 0;
}

function picture(url, name) {
  const shown = element("img", { src: url, alt: name, loading: "lazy", decoding: "async" });
  const link = element("a", { className: "picture", href: url, target: "_blank", rel: "noopener" }, shown);
  shown.addEventListener("error", async () => {
    const gone = element("span", { className: "gone", textContent: "This picture cannot be shown." });
    link.replaceChildren(gone);
    const answer = await fetch(url).catch(() => null);
    if (answer && !answer.ok) gone.textContent = (await answer.json().catch(() => ({}))).error ?? gone.textContent;
  });
  return link;
}

function pairs(columns) {
  const list = element("dl", { className: "pairs" });
  for (const [name, value] of Object.entries(columns)) {
    const said = typeof value === "string" ? value : JSON.stringify(value);
    const cell = element("dd", {}, said);
    if (value !== null && typeof value !== "object" && said.length <= 100 && name in about.columns) {
      cell.prepend(button("only", () => { $("details").close(); addFilter(name, "=", said); }, { title: `only samples whose ${name} is this`, "aria-label": `only ${name} = ${said}` }));
    }
    list.append(element("dt", { textContent: name }), cell);
  }
  return list;
}

// ---- the address: words, samples and filters, so that a search can be shared ---------------------------------------

function address() {
  const said = new URLSearchParams();
  if (words()) said.set("q", words());
  if (words() && state.words !== 1) said.set("weight", state.words);
  if ($("text-modality") && words()) said.set("as", wordsModality());
  for (const piece of state.pieces) if (!piece.file) said.append("like", JSON.stringify([piece.like, piece.modality, piece.weight]));
  for (const one of state.where) said.append("where", JSON.stringify(one));
  if (among() !== about.searched[0]) said.set("in", among());
  if ($("k").value !== "24") said.set("k", $("k").value);
  return said.size ? `?${said}` : location.pathname;
}

function restore() {
  const said = new URLSearchParams(location.search);
  const read = (name) => said.getAll(name).flatMap((one) => { try { return [JSON.parse(one)]; } catch { return []; } }).filter(Array.isArray);
  if (text) text.value = said.get("q") ?? "";
  if ($("text-modality") && said.has("as")) $("text-modality").value = said.get("as");
  state.words = Number(said.get("weight") ?? 1) || 0;
  state.pieces = read("like").map(([row, modality, weight]) => likePiece(row, String(modality), Number(weight) || 0));
  state.where = read("where").map((one) => one.map(String));
  const chosen = said.get("in") ?? about.searched[0];
  for (const one of document.querySelectorAll("input[name=among]")) one.checked = one.value === chosen;
  if (!document.querySelector("input[name=among]:checked")) document.querySelector("input[name=among]").checked = true;
  $("k").value = said.get("k") ?? "24";
  if (!$("k").value) $("k").value = "24";
  drawQuery();
  search({ remember: false });
}

// ---- what a person does -----------------------------------------------------------------------------------------

$("search").addEventListener("submit", (event) => { event.preventDefault(); drawQuery(); search(); });
for (const one of document.querySelectorAll("input[name=among], #k, #text-modality")) one.addEventListener("change", () => { drawQuery(); search(); });
for (const id of ["add-image", "add-audio"]) $(id)?.addEventListener("change", ({ target }) => { addFiles([...target.files]); target.value = ""; });

$("add-filter").addEventListener("click", () => {
  $("filter").hidden = !$("filter").hidden;
  $("add-filter").setAttribute("aria-expanded", String(!$("filter").hidden));
  if (!$("filter").hidden) $("column").focus();
});
function putFilter() {
  if (!$("column").value.trim() || !$("value").value.trim()) return ($("column").value.trim() ? $("value") : $("column")).focus();
  addFilter($("column").value.trim(), $("op").value, $("value").value.trim());
  $("value").value = "";
}
$("put-filter").addEventListener("click", putFilter);
for (const id of ["column", "value"]) $(id).addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); putFilter(); } });

const carries = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => { if (carries(event)) { event.preventDefault(); $("drop").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  $("drop").hidden = true;
  if (carries(event)) { event.preventDefault(); addFiles([...event.dataTransfer.files]); }
});
document.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); addFiles([...event.clipboardData.files]); } });
document.addEventListener("play", ({ target }) => { for (const one of document.querySelectorAll("audio")) if (one !== target) one.pause(); }, true);
$("details").addEventListener("click", ({ target }) => { if (target === $("details")) target.close(); }); // beside it
window.addEventListener("popstate", restore);
restore();
