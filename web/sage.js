// Shows an erasure on the node's face while it runs, refreshes the LoRA lists when a file is saved, and says in a toast what failed.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const COLOURS = { total: "#c8c8d0", erase: "#e0675c", relations: "#5b9be0", noise: "#5fbf83" };
const HEIGHT = 92;
const histories = new Map(); // node id -> [{name: loss}]

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

/** Phase, losses as lines, and time left: plain elements, so that both kinds of node show them. */
function addFace(node) {
  const root = element("div", null, {
    display: "flex", flexDirection: "column", gap: "4px", width: "100%", height: "100%", overflow: "hidden",
    font: "12px sans-serif", color: "var(--input-text, #ddd)", boxSizing: "border-box",
  });
  root.className = "sage-face";
  const text = element("div", root, { whiteSpace: "nowrap", overflow: "hidden", textOverflow: "ellipsis" });
  text.textContent = "ready";
  const graph = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  graph.setAttribute("viewBox", "0 0 100 40");
  graph.setAttribute("preserveAspectRatio", "none");
  Object.assign(graph.style, { width: "100%", flex: "1", minHeight: "0", background: "var(--comfy-input-bg, #222)", borderRadius: "4px" });
  root.append(graph);
  const legend = element("div", root, { display: "flex", gap: "8px", fontSize: "10px", minHeight: "12px" });
  node.addDOMWidget("sage_face", "sage", root, { serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT, getMaxHeight: () => HEIGHT });
  node.sageFace = { text, graph, legend };
}

function drawLosses(face, history, total) {
  const names = Object.keys(history.at(-1) ?? {});
  const highest = Math.max(1e-9, ...history.flatMap((step) => Object.values(step)));
  face.graph.replaceChildren(...names.map((name) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const points = history.map((step, i) => `${(100 * i) / Math.max(1, total - 1)},${39 - 38 * Math.max(0, step[name] ?? 0) / highest}`);
    line.setAttribute("points", points.join(" "));
    line.setAttribute("fill", "none");
    line.setAttribute("stroke", COLOURS[name] ?? "#aaa");
    line.setAttribute("stroke-width", "1.5");
    line.setAttribute("vector-effect", "non-scaling-stroke");
    return line;
  }));
  face.legend.replaceChildren(...names.map((name) => {
    const label = element("span", null, { color: COLOURS[name] ?? "#aaa" });
    label.textContent = name;
    return label;
  }));
}

function onProgress({ detail }) {
  const face = findNode(detail.node)?.sageFace;
  if (!face) return;
  face.text.textContent = detail.text;
  face.text.title = detail.text;
  if (detail.phase === "prepare" || detail.phase === "before") histories.set(detail.node, []);
  if (detail.losses && Object.keys(detail.losses).length) {
    const history = histories.get(detail.node) ?? [];
    if (detail.phase === "erase") history.push(detail.losses);
    histories.set(detail.node, history);
    if (history.length) drawLosses(face, history, detail.total);
  }
}

async function onSaved({ detail }) {
  const face = findNode(detail.node)?.sageFace;
  if (face) face.text.textContent = `saved: ${detail.names.join(", ")}`;
  await app.refreshComboInNodes?.();
  toast("success", "Erase Concept", `Saved ${detail.names.join(", ")}; load it with Load LoRA (model and CLIP) at strength 1.`);
}

function onError({ detail }) {
  if (!String(detail.node_type).startsWith("SAGE_")) return;
  const face = findNode(detail.node_id)?.sageFace;
  const sentence = String(detail.exception_message).trim();
  if (face) face.text.textContent = sentence;
  toast("error", "SAGE", sentence, 15000);
}

/** The last live preview would hide, or repeat, the pictures that the node has put out by now. */
function onExecuted({ detail }) {
  const node = findNode(detail.display_node ?? detail.node);
  if (node?.comfyClass !== "SAGE_EraseConcept") return;
  const previews = app.nodePreviewImages ?? {};
  for (const key of Object.keys(previews)) {
    if (key === String(node.id) || key.endsWith(`:${node.id}`)) delete previews[key];
  }
  node.setDirtyCanvas?.(true, true);
}

function onInterrupted({ detail }) {
  const face = findNode(detail.node_id)?.sageFace;
  if (face) face.text.textContent = "cancelled; queue it again to go on where it stopped";
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
