// Shows an erasure on the node's face while it runs, refreshes the LoRA lists when a file is saved, and says in a toast what failed.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const CURVE = "#e0675c";
const HEIGHT = 92;
const READY = "ready";
const PREVIEW = 96; // height of the live picture
const histories = new Map(); // node id -> looks [{step, left}]

/** The node behind an execution id; "3:7" is node 7 inside the subgraph that node 3 stands for. */
function findNode(id) {
  let graph = app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part));
    graph = node?.subgraph;
  }
  return node;
}

function toast(severity, summary, detail, life = 8000) {
  app.extensionManager?.toast?.add({ severity, summary, detail, life });
}

function element(tag, parent, style = {}) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  parent?.append(made);
  return made;
}

function svgElement(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries({ fill: "none", "stroke-width": "1", "vector-effect": "non-scaling-stroke", ...attributes })) {
    made.setAttribute(name, value);
  }
  return made;
}

/** What happens, how much of the concept is left, and its curve: plain elements, so that both kinds of node show them. */
function addFace(node) {
  const root = element("div", null, {
    display: "flex", flexDirection: "column", gap: "4px", width: "100%", height: "100%", overflow: "hidden",
    font: "12px sans-serif", color: "var(--input-text, #ddd)", boxSizing: "border-box",
  });
  root.className = "sage-face";
  const text = element("div", root, { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis" });
  text.textContent = READY;
  const row = element("div", root, { display: "flex", gap: "8px", flex: "1", minHeight: "0", alignItems: "stretch" });
  const graph = svgElement("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none" });
  Object.assign(graph.style, { visibility: "hidden", flex: "1", minWidth: "0", height: "100%", background: "var(--comfy-input-bg, #222)", borderRadius: "4px" });
  row.append(graph);
  const side = element("div", row, { width: "64px", display: "flex", flexDirection: "column", justifyContent: "center", textAlign: "right" });
  const number = element("div", side, { font: "bold 22px sans-serif", color: CURVE, whiteSpace: "nowrap" });
  number.className = "sage-left";
  const caption = element("div", side, { fontSize: "11px", opacity: "0.8" });
  const preview = element("img", root, { display: "none", height: `${PREVIEW}px`, maxWidth: "100%", objectFit: "contain" });
  preview.className = "sage-preview";
  preview.alt = "the concept as the model draws it now";
  const height = () => HEIGHT + (preview.src ? PREVIEW : 0);
  node.addDOMWidget("sage_face", "sage", root, { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: height });
  node.sageFace = { root, text, graph, number, caption, preview };
}

/** Show a live picture (a data URL), or take it away (""). */
function showPreview(node, url) {
  const preview = node?.sageFace?.preview;
  if (!preview) return;
  if (url) preview.src = url;
  else preview.removeAttribute("src");
  preview.style.display = url ? "block" : "none";
  node.setDirtyCanvas?.(true, true);
}

/** One curve of what is left of the concept, a point for each look from 100 % on; and the number in large type. */
function drawLeft(face, points, total) {
  const at = ({ step, left }) => `${(100 * step) / Math.max(1, total)},${39 - 38 * left}`;
  const lines = [1, 0.5, 0].map((left) => svgElement("polyline", { points: `${at({ step: 0, left })} ${at({ step: total, left })}`, stroke: "#8886" }));
  lines.push(svgElement("polyline", { points: points.map(at).join(" "), stroke: CURVE, "stroke-width": "2.5" }));
  lines.at(-1).classList.add("sage-curve");
  face.graph.replaceChildren(...lines);
  face.graph.style.visibility = "visible";
  const left = points.at(-1)?.left ?? 1;
  face.number.textContent = `${Math.round(100 * left)} %`;
  face.caption.textContent = "left";
}

/** Where a method cannot tell what is left: no curve, no number. */
function clearLeft(face) {
  face.graph.replaceChildren();
  face.graph.style.visibility = "hidden";
  face.number.textContent = "";
  face.caption.textContent = "";
}

function onProgress({ detail }) {
  const node = findNode(detail.node);
  const face = node?.sageFace;
  if (!face) return;
  if (detail.preview) showPreview(node, detail.preview);
  face.text.textContent = detail.text;
  face.text.title = detail.text;
  const losses = Object.entries(detail.losses ?? {}).map(([name, value]) => `${name} ${value.toFixed(4)}`);
  face.root.title = losses.length ? `losses: ${losses.join(", ")}` : "";
  if (detail.phase === "prepare" || detail.phase === "found" || (detail.phase === "look" && detail.left === 1 && detail.step === 0)) {
    histories.set(detail.node, []);
    clearLeft(face);
    if (!detail.preview) showPreview(node, "");
  }
  if (detail.curve?.length > 1) {
    drawLeft(face, detail.curve.map(([step, left]) => ({ step, left })), detail.curve.at(-1)[0]);
  }
  if (detail.phase === "look") {
    const history = histories.get(detail.node) ?? [];
    history.push({ step: detail.step, left: detail.left });
    histories.set(detail.node, history);
    drawLeft(face, history, detail.total);
  }
}

async function onSaved({ detail }) {
  const face = findNode(detail.node)?.sageFace;
  const text = [`saved: ${detail.names.join(", ")}`, ...(detail.found ?? [])].join("\n");
  if (face) face.text.textContent = face.text.title = text;
  await app.refreshComboInNodes?.();
  const load = detail.joined ? `${detail.names.at(-1)}, which holds all of them,` : "it";
  toast("success", "Erase Concept", `Saved ${detail.names.join(", ")}. Load ${load} with Load LoRA (model and CLIP) at strength 1.`);
}

function onError({ detail }) {
  if (!String(detail.node_type).startsWith("SAGE_")) return;
  const face = findNode(detail.node_id)?.sageFace;
  const sentence = String(detail.exception_message).trim();
  if (face) face.text.textContent = sentence;
  toast("error", "SAGE", sentence, 15000);
}

/** The pictures that the node has put out take the place of the live one. */
function onExecuted({ detail }) {
  const node = findNode(detail.display_node ?? detail.node);
  showPreview(node, "");
  if (node?.sageFace?.text.textContent === READY) node.sageFace.text.textContent = "unchanged: nothing was trained";
}

function onInterrupted({ detail }) {
  const face = findNode(detail.node_id)?.sageFace;
  if (face) face.text.textContent = "cancelled; queue it again to resume";
}

app.registerExtension({
  name: "SAGE.ConceptEraser",
  setup() {
    api.addEventListener("sage.progress", onProgress);
    api.addEventListener("sage.saved", onSaved);
    api.addEventListener("executed", onExecuted);
    api.addEventListener("execution_error", onError);
    api.addEventListener("execution_interrupted", onInterrupted);
  },
  nodeCreated(node) {
    if (node.comfyClass === "SAGE_EraseConcept") addFace(node);
  },
});
