// Rasterises the drawings of every concept: node rasterise.mjs CONCEPTS.txt OUT_DIR
// Writes OUT_DIR/<set>/<concept>.png, 128 x 128, transparent background.
import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { Resvg } = require("@resvg/resvg-js");
const SETS = ["noto", "fluent-emoji", "fluent-emoji-high-contrast", "twemoji", "fluent-emoji-flat", "emojione"];
const [conceptsFile, outDir] = process.argv.slice(2);

const concepts = readFileSync(conceptsFile, "utf8").split("\n")
  .filter((line) => line && !line.startsWith("#"))
  .map((line) => line.split("|").map((cell) => cell.trim()));

function svgOf(collection, slug) {
  const alias = collection.aliases?.[slug];
  const icon = collection.icons[alias ? alias.parent : slug];
  if (!icon) return null;
  const width = icon.width ?? collection.width ?? 16;
  const height = icon.height ?? collection.height ?? 16;
  return `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 ${width} ${height}" color="black">${icon.body}</svg>`;
}

for (const set of SETS) {
  const collection = JSON.parse(readFileSync(require.resolve(`@iconify-json/${set}/icons.json`), "utf8"));
  mkdirSync(join(outDir, set), { recursive: true });
  let written = 0;
  for (const [name, slug] of concepts) {
    const svg = svgOf(collection, slug);
    if (!svg) continue;
    const png = new Resvg(svg, { fitTo: { mode: "width", value: 128 } }).render().asPng();
    writeFileSync(join(outDir, set, `${name}.png`), png);
    written += 1;
  }
  console.log(`${set}: ${written} of ${concepts.length}`);
}
