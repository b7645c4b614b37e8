// A meter in front of the wasm of the Worker that imports this: the time inside calls from JavaScript, with what they
// call, and the size of the memory, which never shrinks. Ask on the channel "meter".
const meter = { busy: 0, calls: 0, memory: 0 };
let depth = 0;
let memory;

function metered(instance) {
  const wrap =
    (inner) =>
    (...values) => {
      if (depth) return inner(...values);
      depth++;
      const start = performance.now();
      try {
        return inner(...values);
      } finally {
        meter.busy += performance.now() - start;
        meter.calls++;
        depth--;
      }
    };
  const exports = Object.entries(instance.exports).map(([name, value]) => [
    name,
    typeof value === "function" ? wrap(value) : value,
  ]);
  memory = instance.exports.memory;
  // What wasm-bindgen has made looks at the class.
  return Object.create(WebAssembly.Instance.prototype, { exports: { value: Object.fromEntries(exports) } });
}

const { instantiate } = WebAssembly;
WebAssembly.instantiate = async (module, imports) => metered(await instantiate(module, imports));

const channel = new BroadcastChannel("meter");
channel.onmessage = ({ data }) => {
  if (data === "reset") Object.assign(meter, { busy: 0, calls: 0 });
  channel.postMessage({ ...meter, memory: memory?.buffer.byteLength ?? 0 });
};
