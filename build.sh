#!/usr/bin/env bash
# The one entry point. `./build.sh help` lists the targets; each does what it needs first, installs tools under
# target/tools, and leaves to cargo, npm and the bundlers what has not changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/talk.sh
source scripts/toolchains.sh
source scripts/wasm.sh
source scripts/test.sh

PROFILE=fast # "release" with --release
PORT=4173
BROWSERS=${CANDLEWICK_BROWSERS:-chromium,firefox,webkit}
declare -a BENCH_OPTIONS=()

# ---------------------------------------------------------------- what is built

native() {
  once setup_rust
  cargo build --locked --profile "$PROFILE" --bin candlewick
  note "target/$PROFILE/candlewick"
}

npm_package() {
  once setup_node
  once wasm
  npm_install pkg
  cp LICENSE-MIT LICENSE-APACHE pkg/
  (cd pkg && npm run --silent build)
  note "pkg/ is the npm package"
}

page() {
  once npm_package
  npm_install www
  (cd www && npm run --silent build >&2)
  note "www/dist is the page"
}

demo() {
  stage "demo page" once page
  trap - EXIT
  say "the page is at  http://localhost:$PORT/  (Ctrl-C stops it)"
  cd www
  exec node node_modules/vite/bin/vite.js preview --port "$PORT" --strictPort
}

# The Cloudflare Worker, bundled as it is deployed.
edge() {
  local size
  once page
  npm_install www/edge
  rm -rf www/edge/dist
  size=$(cd www/edge && WRANGLER_SEND_METRICS=false npm run --silent build </dev/null 2>&1) || die "wrangler failed" "$size"
  note "www/edge/dist is the Worker. $(grep -o 'Total Upload.*' <<<"$size") (free accounts take 3 MiB of gzip)"
}

# ---------------------------------------------------------------- measurements

bench() {
  stage "native" once native
  stage "demo page" once page
  stage "browser" once setup_chrome
  npm_install tests
  stage "kernels alone" once build_kernels
  stage "bench" node tests/bench/bench.js ${BENCH_OPTIONS[@]+"${BENCH_OPTIONS[@]}"}
}

kernels() {
  stage "demo page" once page
  stage "browser" once setup_chrome
  npm_install tests
  stage "kernels alone" once build_kernels
  stage "kernels" node tests/bench/kernels.js ${BENCH_OPTIONS[@]+"${BENCH_OPTIONS[@]}"}
}

# What a matrix product takes without the rest of a model: its ceiling.
build_kernels() {
  local form flags
  once setup_rust
  pick_wasm
  for form in simd128 relaxed; do
    flags=$WASM_FLAGS
    [[ $form == simd128 ]] || flags+=,+relaxed-simd
    env ${WASM_ENV[@]+"${WASM_ENV[@]}"} RUSTFLAGS="$flags -C llvm-args=-disable-lsr" CARGO_TARGET_DIR="target/kernels/$form" \
      "$WASM_CARGO" build --locked --release --manifest-path tests/bench/kernels/Cargo.toml --target "$WASM_TARGET" \
      ${WASM_ARGS[@]+"${WASM_ARGS[@]}"}
    cp "target/kernels/$form/$WASM_TARGET/release/kernels.wasm" "target/kernels/$form.wasm"
  done
}

# ---------------------------------------------------------------- the command line

clean() {
  rm -rf pkg/dist pkg/wasm {pkg,www,www/edge,tests,tests/bundlers}/node_modules {www,www/edge}/dist
  [[ ! -d target ]] || find target -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +
}

usage() {
  cat <<TEXT
usage: ./build.sh TARGET... [--release] [--port N] [-- BENCH OPTIONS]

  setup    what the other targets need: toolchains, wasm-bindgen, browsers
  native   the command line tool, target/fast/candlewick
  wasm     the engine for browsers, pkg/wasm: with threads and without
  npm      the npm package, pkg
  demo     build the page and serve it (--port, $PORT)
  edge     the Cloudflare Worker, www/edge/dist, ready to be deployed
  test     everything that must be green, or stages of it: $STAGES
  bench    measure; options after --, see tests/bench/README.md
  kernels  the same for the CPU's matrix kernels alone
  clean    remove what was built; keeps target/tools
  help     this

  --release  the form that is published: fat LTO, wasm-opt; slow to build
  CHROME, FIREFOX, MINIBROWSER  the browsers for the tests, if not those that are found
  CANDLEWICK_BROWSERS=chromium,firefox  test in these only (default: chromium,firefox,webkit)
TEXT
}

main() {
  local -a targets=() stages=()
  local target
  while (($#)); do
    case $1 in
      --release) PROFILE=release ;;
      --port) PORT=${2:?--port needs a number} && shift ;;
      --port=*) PORT=${1#*=} ;;
      -h | --help | help) usage && return ;;
      --) shift && BENCH_OPTIONS=("$@") && break ;;
      *)
        if [[ " ${targets[*]-} " == *" test "* ]]; then
          [[ " $STAGES " == *" $1 "* ]] || { usage >&2 && die "\"$1\" is no stage of the tests"; }
          stages+=("$1")
        else
          [[ " setup native wasm npm demo edge test bench kernels clean " == *" $1 "* ]] || { usage >&2 && die "unknown target: $1"; }
          targets+=("$1")
        fi
        ;;
    esac
    shift
  done
  ((${#targets[@]})) || { usage && return; }
  for target in "${targets[@]}"; do
    case $target in
      setup) stage "setup" setup_for lint gpu wasm browser ;;
      npm) stage "npm package" once npm_package ;;
      native | wasm | edge) stage "$target" once "$target" ;;
      test) run_tests ${stages[@]+"${stages[@]}"} ;;
      *) "$target" ;;
    esac
  done
}
main "$@"
exit # A change to this file while it runs is not read.
