# What `./build.sh test` runs, stage by stage.

readonly STAGES="lint rust gpu wasm edge browser bundlers"

# run_tests [STAGE]...: all but the bundlers, which are many downloads.
run_tests() {
  local name
  export CANDLEWICK_PROFILE=$PROFILE # Limits of sizes go by it.
  (($#)) || set -- lint rust gpu wasm edge browser
  stage "toolchains" setup_for "$@"
  for name in "$@"; do "test_$name"; done
  say "all green"
}

setup_for() {
  local name
  once setup_rust
  for name in "$@"; do
    case $name in
      lint) once setup_lints && pick_wasm && once setup_node ;;
      gpu) once setup_renderers ;;
      wasm | edge) pick_wasm && once setup_bindgen && once setup_node ;;
      bundlers) pick_wasm && once setup_bindgen && once setup_node && once setup_chrome ;;
      browser) pick_wasm && once setup_bindgen && once setup_node && once setup_browsers ;;
    esac
  done
}

test_lint() {
  stage "format" cargo fmt --all --check
  npm_install tests
  stage "format of TypeScript and JavaScript" tests/node_modules/.bin/prettier --check --log-level warn .
  stage "clippy" cargo clippy --locked --all-targets -- -D warnings
  # All targets are those that `cargo test` runs by itself.
  stage "clippy for the tests of the GPU" cargo clippy --locked --test gpu -- -D warnings
  stage "clippy without a GPU, and for the fuzz target" \
    cargo clippy --locked -p candlewick -p candlewick-fuzz --no-default-features --lib --bins -- -D warnings
  stage "clippy for the kernels' benchmark" env CARGO_TARGET_DIR=target/kernels \
    cargo clippy --locked --manifest-path tests/bench/kernels/Cargo.toml -- -D warnings
  stage "clippy for wasm" clippy_wasm
}

clippy_wasm() {
  local path=$PATH
  # A distribution's compiler wants its own clippy.
  if [[ $WASM_CARGO == /usr/bin/cargo ]]; then
    [[ -x /usr/bin/clippy-driver ]] || apt rust-web-clippy || { note "skipped: no clippy for $(/usr/bin/rustc -V)" && return; }
    path=/usr/bin:$PATH
  fi
  PATH=$path wasm_cargo wasm "$WASM_FLAGS" clippy --profile "$PROFILE" -- -D warnings
}

# Tests run beside each other: more threads in each would only wait for one another. NODEVICE_SELECT keeps a layer of
# Mesa's quiet that looks for a desktop.
test_rust() { stage "cargo test" env NODEVICE_SELECT=1 RAYON_NUM_THREADS=1 cargo test --locked; }

test_gpu() {
  [[ -z $LAVAPIPE ]] || stage "GPU tests on lavapipe" gpu_tests "$LAVAPIPE" full
  # It is slow: part of the cases, and none of the engine's.
  [[ -z $SWIFTSHADER ]] || stage "GPU tests on SwiftShader" gpu_tests "$SWIFTSHADER" short device:: models:: attention choose q4_0 q6_k
}

# gpu_tests ICD EXTENT [FILTER]...: the GPU backend's tests on the renderer that a Vulkan driver file names.
gpu_tests() {
  local icd=$1 extent=$2
  shift 2
  VK_DRIVER_FILES=$icd NODEVICE_SELECT=1 RAYON_NUM_THREADS=1 CANDLEWICK_TEST_GPU=$extent \
    cargo test --locked --test gpu -- "$@"
}

test_wasm() {
  stage "wasm" once wasm
  stage "npm package" once npm_package
  stage "demo page" once page
  stage "tsc --noEmit" types
}

types() {
  npm_install tests
  npm_install www/edge
  (cd pkg && npm run --silent check)
  (cd www && npm run --silent check)
  (cd www/edge && npm run --silent check)
}

test_edge() {
  stage "edge Worker" once edge
  npm_install tests
  stage "edge tests" run_node tests/edge/*.test.js
}

test_browser() {
  stage "wasm, npm package and demo page" once page
  npm_install tests
  ! tests_in chromium || stage "browser tests in Chromium" browser_tests chromium tests/browser/*.test.js
  ! tests_in firefox || stage "browser tests in Firefox" browser_tests firefox tests/browser/{engine,errors,gpu,sessions,store,threads}.test.js
  # The others end pages and browsers in the middle of a download, at which this driver hangs.
  ! tests_in firefox || stage "downloads that fail in Firefox" browser_tests firefox --test-name-pattern="into files|into the database" tests/browser/schedules.test.js
  ! tests_in webkit || stage "browser tests in WebKit" browser_tests webkit tests/browser/{engine,errors,sessions,threads}.test.js
  # Most of the storage's tests want private files, and several windows that share them.
  ! tests_in webkit || stage "a model's storage in WebKit" browser_tests webkit --test-name-pattern="comes from the Hub once" tests/browser/store.test.js
}

# browser_tests BROWSER [OPTION] FILE...: tests say themselves what they leave out where.
browser_tests() {
  local -x CANDLEWICK_TEST_BROWSER=$1
  shift
  # Two files at a time: half of a test's time is another process's, or a server's that it waits for.
  run_node --test-concurrency=2 "$@"
}

# run_node [OPTION] FILE...: Node's test runner. A test that fails may leave its browser open: without these limits the
# run would wait for it for ever.
run_node() { node --test --test-force-exit --test-timeout=900000 "$@"; }

# The npm package in the bundlers that are too large to be part of every run. They are installed for it.
test_bundlers() {
  stage "wasm, npm package and demo page" once page
  npm_install tests
  npm_install tests/bundlers
  stage "bundlers" run_node tests/bundlers/*.test.js
}
