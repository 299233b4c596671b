// Blocks of the dashboard: gzipped JSON, in the page itself as inert text or beside it as scripts, which a page
// from the disk may read where it may fetch nothing.
const dashboard = JSON.parse(document.getElementById("dashboard").textContent);
const blocks = new Map();
const awaited = new Map();
const BLOCKS_KEPT = 64;

// What a script beside the page calls.
function received(name, packed) {
  awaited.get(name)(packed);
}

function packedBeside(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    awaited.set(name, resolve);
    script.src = `${dashboard.data}${name}.js`;
    script.addEventListener("load", () => script.remove());
    script.addEventListener("error", () => reject(new Error(`${script.src} is missing`)));
    document.head.append(script);
  });
}

async function packedWithin(name) {
  for (;;) {
    const element = document.getElementById(`block:${name}`);
    const read = document.readyState !== "loading";
    // while the page is still read, an element is whole once another one follows
    if (element && (element.nextElementSibling || read)) return element.textContent;
    if (read) throw new Error(`the page holds no ${name}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// The content of a block; numbered ones are forgotten when many others were read since.
function block(name) {
  const found = blocks.get(name) ?? (dashboard.data ? packedBeside(name) : packedWithin(name)).then(unpacked);
  blocks.delete(name);
  blocks.set(name, found);
  const numbered = [...blocks.keys()].filter((key) => /-\d+$/.test(key));
  if (numbered.length > BLOCKS_KEPT) blocks.delete(numbered[0]);
  return found;
}

// Entry i of what was cut into blocks of 64.
const AT_ONCE = 64;
const entry = async (name, i) => (await block(`${name}-${Math.floor(i / AT_ONCE)}`))[i % AT_ONCE];
