# The engine for browsers: three files of WebAssembly, and the JavaScript that goes with each.

readonly WASM_FLAGS="-C target-feature=+simd128"
# What shared memory needs besides: the linker's options, and the exports that wasm-bindgen sets threads up with.
readonly THREADS_FLAGS="-C target-feature=+simd128,+atomics,+bulk-memory,+mutable-globals \
  -C link-arg=--shared-memory -C link-arg=--import-memory -C link-arg=--max-memory=4294967296 \
  -C link-arg=--export=__wasm_init_tls -C link-arg=--export=__tls_size -C link-arg=--export=__tls_align -C link-arg=--export=__tls_base"

# wasm_cargo FOLDER FLAGS SUBCOMMAND ARGS...: cargo with the toolchain of the wasm build, and a target folder of its
# own for each set of flags: cargo would take one's file for the other's.
wasm_cargo() {
  local folder=$1 flags=$2 subcommand=$3
  shift 3
  env ${WASM_ENV[@]+"${WASM_ENV[@]}"} RUSTFLAGS="$flags" CARGO_TARGET_DIR="target/$folder" \
    "$WASM_CARGO" "$subcommand" --locked --lib --no-default-features --features gpu --target "$WASM_TARGET" \
    ${WASM_ARGS[@]+"${WASM_ARGS[@]}"} "$@"
}

wasm() {
  local name
  once setup_rust
  once setup_bindgen
  pick_wasm
  # Beside the next one: much of a build runs on one core.
  compile_wasm wasm "$WASM_FLAGS" &
  local single=$! threads=yes
  if pick_wasm_threads; then
    compile_wasm wasm-threads "$THREADS_FLAGS" -C target-feature=+relaxed-simd
    # All but the crate itself is the same.
    [[ -d target/wasm-threads-plain ]] || cp -a target/wasm-threads target/wasm-threads-plain
    compile_wasm wasm-threads-plain "$THREADS_FLAGS"
  else
    threads=
  fi
  wait "$single"
  bind_wasm candlewick wasm
  for name in candlewick-threads candlewick-threads-plain; do
    if [[ -n $threads ]]; then bind_wasm "$name" "${name/candlewick/wasm}"; else without_threads "$name"; fi
  done
  pick_wasm # What comes after it, such as clippy, may want another toolchain than the files with threads.
}

# compile_wasm FOLDER FLAGS [OPTION]...: one of the three files. Options are rustc's, for the crate itself.
compile_wasm() {
  local folder=$1 flags=$2
  shift 2
  # `rustc --crate-type`, because cargo leaves LTO out for a library that is also an rlib.
  # Without LLVM's strength reduction, whose pointers hide constant offsets from V8: kernels are up to a sixth faster.
  wasm_cargo "$folder" "$flags" rustc --profile "$PROFILE" --crate-type cdylib -- -C llvm-args=-disable-lsr "$@"
}

# bind_wasm NAME FOLDER: the JavaScript that goes with a file, and what pages load of the file itself.
bind_wasm() {
  local name=$1 built=target/$2/$WASM_TARGET/$PROFILE/candlewick.wasm
  # Functions' names, for debuggers, stay in target/: they are a quarter of the file.
  "$BINDGEN" --target web --remove-name-section --remove-producers-section --out-dir pkg/wasm --out-name "$name" "$built"
  [[ $PROFILE != release ]] || optimize "pkg/wasm/${name}_bg.wasm"
  note "pkg/wasm/${name}_bg.wasm: $(wc -c <"pkg/wasm/${name}_bg.wasm") bytes, gzip -9 $(gzip -9c "pkg/wasm/${name}_bg.wasm" | wc -c)"
}

# without_threads NAME: what the package imports instead of a file that could not be built. It then starts another one.
without_threads() {
  local name=$1
  note "skipped: $name.wasm. The package works without it, on one thread"
  cp pkg/wasm/candlewick.d.ts "pkg/wasm/$name.d.ts"
  {
    echo 'const missing = () => { throw new Error("it was left out of this build"); };'
    echo 'export { missing as default, missing as initSync, missing as help, missing as useHelpers, missing as Engine, missing as Models, missing as Stopper };'
  } >"pkg/wasm/$name.js"
  : >"pkg/wasm/${name}_bg.wasm" # Bundlers look for it.
}

# optimize FILE: wasm-opt, for what is published. Its absence only costs 4 % of the size.
optimize() {
  local file=$1
  local -a threads=()
  [[ $file != *threads* ]] || threads=(--enable-threads)
  [[ $file != *threads_bg* ]] || threads+=(--enable-relaxed-simd)
  once setup_binaryen
  [[ -n $WASM_OPT ]] || { note "going on without wasm-opt" && return; }
  note "wasm-opt -O3 (minutes)"
  # Features by name: what --all-features writes, Chromium refuses.
  "$WASM_OPT" -O3 --enable-simd --enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext \
    --enable-mutable-globals --enable-reference-types --enable-multivalue ${threads[@]+"${threads[@]}"} "$file" -o "$file.opt"
  mv "$file.opt" "$file"
}
