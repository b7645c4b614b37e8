/** Workers have WebAssembly compiled when they are deployed. */
declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}
