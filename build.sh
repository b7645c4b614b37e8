#!/usr/bin/env bash
# The one entry point. `./build.sh help` lists the targets; each does what it needs first,
# installs tools under target/tools, and is quick when nothing has changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly TOOLS=$PWD/target/tools
readonly WASM_TARGET=wasm32-unknown-unknown
readonly BINARYEN=132.0.0
PROFILE=fast # "release" with --release
PORT=4173
declare -a TIMES=() FINISHED=() BENCH_OPTIONS=()
STAGE=

# ---------------------------------------------------------------- talking

BOLD='' RED='' PLAIN=''
[[ ! -t 2 ]] || BOLD=$'\033[1m' RED=$'\033[31m' PLAIN=$'\033[0m'
say() { printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
# die WHAT [HOW TO FIX]...
die() {
  printf '\n%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
  shift
  for line in "$@"; do printf '  fix: %s\n' "$line" >&2; done
  exit 1
}

# stage NAME COMMAND...: run it and remember how long it took.
stage() {
  local name=$1 from=$SECONDS
  shift
  say "$name"
  STAGE=$name
  "$@"
  STAGE=
  TIMES+=("$((SECONDS - from)) $name")
}

# once FUNCTION: the first call in this run does it, the others find it done.
once() {
  local name
  for name in ${FINISHED[@]+"${FINISHED[@]}"}; do [[ $name != "$1" ]] || return 0; done
  "$1"
  FINISHED+=("$1")
}

report() {
  local status=$? entry
  if ((${#TIMES[@]} > 1)); then
    printf '\n%6s  stage\n' seconds >&2
    for entry in "${TIMES[@]}"; do printf '%7d  %s\n' "${entry%% *}" "${entry#* }" >&2; done
    printf '%7d  in all\n' "$SECONDS" >&2
  fi
  if ((status != 0)) && [[ -n $STAGE ]]; then
    printf '\n%sfailed:%s %s (its output is above)\n' "$RED" "$PLAIN" "$STAGE" >&2
  fi
}
trap report EXIT

# ---------------------------------------------------------------- helpers

have() { command -v "$1" >/dev/null 2>&1; }
# at_least HAVE WANT: version comparison.
at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]; }
# digest PATH...: one hash over the contents and names of files and folders.
digest() {
  find "$@" \( -name node_modules -o -name dist \) -prune -o -type f -print0 2>/dev/null |
    sort -z | xargs -0 -r "${SHA256[@]}" | "${SHA256[@]}" | cut -d ' ' -f 1
}
SHA256=(sha256sum)
have sha256sum || SHA256=(shasum -a 256) # macOS
# fresh STAMP KEY: true when the stamp file says KEY.
fresh() { [[ -f $1 && $(<"$1") == "$2" ]]; }

# apt PACKAGE...: install what is missing. Fails quietly where there is no apt or no right to use it.
apt_updated=
apt() {
  local -a sudo=() missing=()
  local package
  have apt-get && have dpkg-query || return 1
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    { have sudo && sudo -n true 2>/dev/null; } || return 1
    sudo=(sudo -n)
  fi
  note "apt-get install ${missing[*]}"
  if [[ -z $apt_updated ]]; then
    "${sudo[@]}" apt-get update -qq </dev/null >&2 || return 1
    apt_updated=yes
  fi
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2
}

# ---------------------------------------------------------------- Rust

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }
rustc_version() { "$1" -V 2>/dev/null | cut -d ' ' -f 2; }
# rust_ok RUSTC: exists and is new enough.
rust_ok() {
  local version
  version=$(rustc_version "$1") && [[ -n $version ]] && at_least "$version" "$(rust_wanted)"
}

setup_rust() {
  if ! { have cargo && rust_ok rustc; }; then
    note "no Rust $(rust_wanted) or newer in PATH; trying Debian's"
    apt rustc-web cargo-web rustfmt-web rust-web-clippy || true
    hash -r
    { have cargo && rust_ok rustc; } || die "candlewick needs Rust $(rust_wanted) or newer; found: $(rustc_version rustc || echo none)" \
      "install it from https://rustup.rs, or update with: rustup update stable"
  fi
  have cc || apt gcc libc6-dev || die "no C compiler (Rust links through cc)" \
    "Debian, Ubuntu: sudo apt-get install gcc libc6-dev" "macOS: xcode-select --install"
  note "$(rustc -V)"
}

# setup_lints: rustfmt and clippy, for `test`.
setup_lints() {
  { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 && return
  if have rustup; then
    rustup component add rustfmt clippy >&2 || true
  else
    apt rustfmt-web rust-web-clippy || true
  fi
  { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 ||
    die "rustfmt and clippy are missing" "rustup component add rustfmt clippy"
}

# How to build for wasm, found by pick_wasm: which cargo and rustc, and what build-std needs.
declare -a WASM_ENV=() WASM_ARGS=()
WASM_CARGO=cargo

wasm_linker() {
  local name version
  for name in "wasm-ld-$1" wasm-ld; do have "$name" && command -v "$name" && return; done
  for version in 25 24 23 22 21 20 19; do have "wasm-ld-$version" && command -v "wasm-ld-$version" && return; done
  return 1
}

# use_wasm RUSTC: take this compiler if it can build for wasm32, with its own standard library or by building it.
use_wasm() {
  local rustc=$1 mode=$2 sysroot host llvm linker
  rust_ok "$rustc" || return 1
  sysroot=$("$rustc" --print sysroot)
  host=$("$rustc" -vV | sed -n 's/^host: //p')
  llvm=$("$rustc" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  WASM_ENV=() WASM_ARGS=() WASM_CARGO=cargo
  case $mode in
    shipped) compgen -G "$sysroot/lib/rustlib/$WASM_TARGET/lib/libstd-*.rlib" >/dev/null || return 1 ;;
    build-std)
      [[ -f $sysroot/lib/rustlib/src/rust/library/Cargo.toml ]] || return 1
      WASM_ENV+=(RUSTC_BOOTSTRAP=1)
      WASM_ARGS+=("-Zbuild-std=std,panic_abort")
      ;;
  esac
  if [[ ! -x $sysroot/lib/rustlib/$host/bin/rust-lld ]]; then
    linker=$(wasm_linker "$llvm") || return 1
    WASM_ENV+=("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker")
  fi
  if [[ $rustc == /usr/bin/rustc ]]; then # The distribution's, whatever else comes first in PATH.
    WASM_CARGO=/usr/bin/cargo
    WASM_ENV+=(RUSTC=/usr/bin/rustc)
  fi
  note "wasm: $("$rustc" -V), standard library $mode"
}

setup_debian_wasm() {
  local llvm
  apt rustc-web cargo-web rust-web-src || return 1
  hash -r
  llvm=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  apt "lld-$llvm"
}

pick_wasm() {
  use_wasm rustc shipped && return
  use_wasm /usr/bin/rustc shipped && return
  use_wasm /usr/bin/rustc build-std && return
  if have rustup; then
    note "rustup target add $WASM_TARGET"
    rustup target add "$WASM_TARGET" >&2 || note "rustup could not add it; trying Debian's toolchain"
    use_wasm rustc shipped && return
  fi
  setup_debian_wasm && use_wasm /usr/bin/rustc build-std && return
  die "no Rust toolchain here can build for $WASM_TARGET" \
    "with rustup: rustup target add $WASM_TARGET" \
    "Debian without rustup: sudo apt-get install rustc-web cargo-web rust-web-src lld-22"
}

# pick_wasm_threads: the standard library that toolchains ship has no threads, so its source must be there.
pick_wasm_threads() {
  use_wasm rustc build-std && return
  use_wasm /usr/bin/rustc build-std && return
  if have rustup; then
    note "rustup component add rust-src"
    rustup component add rust-src >&2 || true
    use_wasm rustc build-std && return
  fi
  setup_debian_wasm && use_wasm /usr/bin/rustc build-std && return
  note "candlewick-threads.wasm needs the standard library's source: rustup component add rust-src"
  return 1
}

# The CLI must be of the very version of the crate in Cargo.lock.
setup_bindgen() {
  local version
  version=$(sed -n '/^name = "wasm-bindgen"$/{n;s/^version = "\(.*\)"/\1/p;}' Cargo.lock)
  BINDGEN=$TOOLS/wasm-bindgen-$version/bin/wasm-bindgen
  [[ -x $BINDGEN ]] && return
  note "wasm-bindgen $version (once, a few minutes)"
  # Without --locked: its lock file names versions that some registries do not have. The features are its test runner's.
  cargo install wasm-bindgen-cli --bin wasm-bindgen --no-default-features --version "$version" --root "$TOOLS/wasm-bindgen-$version" \
    --target-dir "$TOOLS/build" --quiet >&2 ||
    die "could not install wasm-bindgen-cli $version" "check the network, then run ./build.sh setup again"
  rm -rf "$TOOLS/build"
}

# ---------------------------------------------------------------- Node and the browser

setup_node() {
  local version
  if ! have node || ! have npm; then apt nodejs npm || true; fi
  hash -r
  have node || die "Node.js is missing" "install Node 20 or newer: https://nodejs.org/en/download"
  have npm || die "npm is missing" "it comes with Node from https://nodejs.org; Debian: sudo apt-get install npm"
  version=$(node -p process.versions.node)
  at_least "$version" 20 || die "Node $version is too old" "install Node 20 or newer: https://nodejs.org/en/download"
}

# npm_install FOLDER: `npm ci`, when the lock file is not what was installed last.
npm_install() {
  local stamp=$1/node_modules/.candlewick-stamp key
  key=$(digest "$1/package.json" "$1/package-lock.json")
  fresh "$stamp" "$key" && return
  note "npm ci in $1/"
  (cd "$1" && npm ci --no-audit --no-fund --loglevel=error </dev/null >&2) ||
    die "npm ci failed in $1/" "check the network; if package.json changed, run npm install in $1/ and commit package-lock.json"
  echo "$key" >"$stamp"
}

setup_chrome() {
  local name
  if [[ -z ${CHROME:-} ]]; then
    find_chrome || { apt chromium && find_chrome; } || true
  fi
  [[ -n ${CHROME:-} ]] || die "no Chromium for the browser tests" \
    "Debian: sudo apt-get install chromium" "elsewhere: install Chrome, or CHROME=/path/to/chrome ./build.sh test"
  [[ -x $CHROME ]] || die "CHROME=$CHROME cannot be run" "set CHROME to a Chromium or Chrome executable"
  export CHROME
  note "browser: $CHROME"
}
find_chrome() {
  for name in chromium google-chrome google-chrome-stable chromium-browser chrome \
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    if have "$name"; then CHROME=$(command -v "$name") && return; fi
  done
  return 1
}

# setup_browsers: those that the tests run in. Chromium always, whose renderer the GPU's tests need as well.
BROWSERS=${CANDLEWICK_BROWSERS:-chromium,firefox,webkit}
setup_browsers() {
  local name
  once setup_chrome
  for name in ${BROWSERS//,/ }; do
    case $name in
      chromium) ;;
      firefox) setup_firefox ;;
      webkit) setup_webkit ;;
      *) die "CANDLEWICK_BROWSERS names $name, which is no browser of the tests" "choose from chromium,firefox,webkit" ;;
    esac
  done
}
# tests_in BROWSER: whether they were asked for.
tests_in() { [[ ,${BROWSERS// /,}, == *,$1,* ]]; }
readonly WITHOUT="to test without it: CANDLEWICK_BROWSERS="

setup_firefox() {
  if [[ -z ${FIREFOX:-} ]]; then
    find_firefox || { apt firefox-esr && find_firefox; } || true
  fi
  [[ -n ${FIREFOX:-} ]] || die "no Firefox for the browser tests" "Debian: sudo apt-get install firefox-esr" \
    "elsewhere: install Firefox, or FIREFOX=/path/to/firefox ./build.sh test" "${WITHOUT}chromium,webkit ./build.sh test"
  [[ -x $FIREFOX ]] || die "FIREFOX=$FIREFOX cannot be run" "set FIREFOX to a Firefox executable"
  export FIREFOX
  note "browser: $FIREFOX"
}
find_firefox() {
  local name
  for name in firefox-esr firefox /Applications/Firefox.app/Contents/MacOS/firefox; do
    if have "$name"; then FIREFOX=$(command -v "$name") && return; fi
  done
  return 1
}

# setup_webkit: WebKitGTK's small browser, its driver, and an X server without a screen.
setup_webkit() {
  find_webkit || { apt webkit2gtk-driver xvfb && find_webkit; } || die "no WebKit for the browser tests" \
    "Debian, Ubuntu: sudo apt-get install webkit2gtk-driver xvfb" \
    "elsewhere: WebKitWebDriver and Xvfb in PATH, MINIBROWSER=/path/to/MiniBrowser" "${WITHOUT}chromium,firefox ./build.sh test"
  export MINIBROWSER
  note "browser: $MINIBROWSER"
}
find_webkit() {
  local file
  have WebKitWebDriver && have Xvfb || return 1
  [[ -z ${MINIBROWSER:-} ]] || return 0
  for file in /usr/lib/*/webkit2gtk-4.1/MiniBrowser /usr/lib/*/webkitgtk-6.0/MiniBrowser /usr/lib*/webkit*gtk-*/MiniBrowser \
    /usr/libexec/webkit*gtk-*/MiniBrowser; do
    [[ -x $file ]] && MINIBROWSER=$file && return
  done
  return 1
}

# ---------------------------------------------------------------- targets

native() {
  once setup_rust
  cargo build --locked --profile "$PROFILE" --bin candlewick
  note "target/$PROFILE/candlewick"
}

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
  once setup_rust
  once pick_wasm
  once setup_bindgen
  wasm_file candlewick wasm "$WASM_FLAGS"
  # It may want another toolchain than what comes after it, such as clippy.
  local cargo=$WASM_CARGO
  local -a env=(${WASM_ENV[@]+"${WASM_ENV[@]}"}) args=(${WASM_ARGS[@]+"${WASM_ARGS[@]}"})
  if pick_wasm_threads; then
    wasm_file candlewick-threads wasm-threads "$THREADS_FLAGS" -C target-feature=+relaxed-simd
    # All but the crate itself is the same.
    [[ -d target/wasm-threads-plain ]] || cp -a target/wasm-threads target/wasm-threads-plain
    wasm_file candlewick-threads-plain wasm-threads-plain "$THREADS_FLAGS"
  else
    without_threads candlewick-threads
    without_threads candlewick-threads-plain
  fi
  WASM_CARGO=$cargo WASM_ENV=(${env[@]+"${env[@]}"}) WASM_ARGS=(${args[@]+"${args[@]}"})
}

# wasm_file NAME FOLDER FLAGS [OPTION]...: one of the three files, and the JavaScript that goes with it. Options are
# rustc's, for the crate itself.
wasm_file() {
  local name=$1 folder=$2 flags=$3 built key
  local stamp=pkg/wasm/.$name
  shift 3
  built=target/$folder/$WASM_TARGET/$PROFILE/candlewick.wasm
  # `rustc --crate-type`, because cargo leaves LTO out for a library that is also an rlib.
  # Without LLVM's strength reduction, whose pointers hide constant offsets from V8: kernels are up to a sixth faster.
  wasm_cargo "$folder" "$flags" rustc --profile "$PROFILE" --crate-type cdylib -- -C llvm-args=-disable-lsr "$@"
  key="$PROFILE $(digest "$built" "$BINDGEN")"
  if ! fresh "$stamp" "$key"; then
    mkdir -p pkg/wasm
    rm -f "$stamp"
    # Functions' names, for debuggers, stay in target/: they are a quarter of the file.
    "$BINDGEN" --target web --remove-name-section --remove-producers-section --out-dir pkg/wasm --out-name "$name" "$built"
    [[ $PROFILE != release ]] || optimize "pkg/wasm/${name}_bg.wasm"
    echo "$key" >"$stamp"
  fi
  sizes "pkg/wasm/${name}_bg.wasm"
}

# without_threads NAME: what the package imports instead of a file that could not be built. It then starts another one.
without_threads() {
  local name=$1
  note "skipped: $name.wasm. The package works without it, on one thread"
  rm -f pkg/wasm/"$name"{,_bg}.* pkg/wasm/."$name"
  cp pkg/wasm/candlewick.d.ts "pkg/wasm/$name.d.ts"
  {
    echo 'const missing = () => { throw new Error("it was left out of this build"); };'
    echo 'export { missing as default, missing as initSync, missing as help, missing as useHelpers, missing as Engine, missing as Models, missing as Stopper };'
  } >"pkg/wasm/$name.js"
  : >"pkg/wasm/${name}_bg.wasm" # Bundlers look for it.
}

# optimize FILE: wasm-opt, for what is published. Its absence only costs 4 % of the size.
optimize() {
  local tool=$TOOLS/binaryen-$BINARYEN/node_modules/.bin/wasm-opt file=$1
  local -a threads=()
  [[ $file != *threads* ]] || threads=(--enable-threads)
  [[ $file != *threads_bg* ]] || threads+=(--enable-relaxed-simd)
  once setup_node
  [[ -x $tool ]] || npm install --no-audit --no-fund --loglevel=error --prefix "$TOOLS/binaryen-$BINARYEN" "binaryen@$BINARYEN" >&2 ||
    { note "binaryen cannot be installed; going on without wasm-opt" && return; }
  note "wasm-opt -O3 (minutes)"
  # Features by name: what --all-features writes, Chromium refuses.
  "$tool" -O3 --enable-simd --enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext \
    --enable-mutable-globals --enable-reference-types --enable-multivalue ${threads[@]+"${threads[@]}"} "$file" -o "$file.opt"
  mv "$file.opt" "$file"
}

sizes() {
  local raw zipped brotli=""
  raw=$(wc -c <"$1")
  zipped=$(gzip -9 -c "$1" | wc -c)
  if have node; then
    brotli=$(node -e 'process.stdout.write(", brotli " + require("zlib").brotliCompressSync(require("fs").readFileSync(process.argv[1]),
      { params: { [require("zlib").constants.BROTLI_PARAM_QUALITY]: 9 } }).length)' "$1")
  fi
  note "$1: $((raw)) bytes, gzip -9 $((zipped))$brotli"
}

npm_package() {
  local stamp=pkg/node_modules/.candlewick-built key
  once setup_node
  once wasm
  npm_install pkg
  cp LICENSE-MIT LICENSE-APACHE pkg/
  key=$(digest pkg/src pkg/build.js pkg/package.json pkg/tsconfig.json pkg/package-lock.json pkg/wasm/*.d.ts pkg/wasm/*.js)
  if ! fresh "$stamp" "$key" || [[ ! -d pkg/dist ]]; then
    rm -rf pkg/dist
    (cd pkg && npm run --silent build)
    echo "$key" >"$stamp"
  fi
  note "pkg/ is the npm package"
}

# page: the demo page, built for any static host.
page() {
  local stamp=www/node_modules/.candlewick-built key
  once npm_package
  npm_install www
  key="$(digest www pkg/wasm pkg/src pkg/tsconfig.json)"
  if ! fresh "$stamp" "$key" || [[ ! -d www/dist ]]; then
    (cd www && npm run --silent build >&2)
    echo "$key" >"$stamp"
  fi
  note "www/dist is the page"
}

demo() {
  stage "demo page" once page
  trap - EXIT
  say "the page is at  http://localhost:$PORT/  (Ctrl-C stops it)"
  cd www
  exec node node_modules/vite/bin/vite.js preview --port "$PORT" --strictPort
}

# edge: the Cloudflare Worker, bundled as it is deployed.
edge() {
  local size
  once page
  npm_install www/edge
  rm -rf www/edge/dist
  size=$(cd www/edge && WRANGLER_SEND_METRICS=false npm run --silent build </dev/null 2>&1) || die "wrangler failed" "$size"
  note "www/edge/dist is the Worker. $(grep -o 'Total Upload.*' <<<"$size") (free accounts take 3 MiB of gzip)"
}

types() {
  npm_install tests
  (cd pkg && npm run --silent check)
  (cd www && npm run --silent check)
  (cd www/edge && npm run --silent check)
}

# node_tests FOLDER: its tests, file by file.
node_tests() {
  local -a files=()
  local file
  # Not the folder: Node 20 takes one, newer ones do not.
  for file in "$1"/*.test.{js,mjs,ts}; do [[ -f $file ]] && files+=("$file"); done
  ((${#files[@]})) || die "$1 holds no tests"
  run_node "${files[@]}"
}

# browser_tests BROWSER NAME...: those of tests/browser that are called so, in another browser than Chromium. Of
# NAME=PATTERN only the tests whose names match are run.
browser_tests() {
  local -x CANDLEWICK_TEST_BROWSER=$1
  local -a files=() parts=()
  local name
  shift
  for name in "$@"; do
    if [[ $name == *=* ]]; then parts+=("$name"); else files+=("tests/browser/$name.test.js"); fi
  done
  run_node "${files[@]}"
  for name in ${parts[@]+"${parts[@]}"}; do
    run_node --test-name-pattern="${name#*=}" "tests/browser/${name%%=*}.test.js"
  done
}

# run_node [OPTION] FILE...: Node's test runner.
run_node() {
  local -a limits=()
  # A test that fails may leave its browser open: without these the run would wait for it for ever.
  if at_least "$(node -p process.versions.node)" 20.14; then limits=(--test-force-exit --test-timeout=900000); fi
  node --test ${limits[@]+"${limits[@]}"} "$@"
}

# gpu_tests ICD [FILTER]...: the GPU backend's tests on the renderer that a Vulkan driver file names; with filters,
# on part of the cases. NODEVICE_SELECT keeps a layer of Mesa's quiet that looks for a desktop.
gpu_tests() {
  local icd=$1 extent=full
  shift
  (($#)) && extent=short
  note "Vulkan driver: $icd"
  VK_DRIVER_FILES=$icd NODEVICE_SELECT=1 RAYON_NUM_THREADS=1 CANDLEWICK_TEST_GPU=$extent \
    cargo test --locked --test gpu -- "$@"
}

# setup_renderers: Vulkan renderers in software. Lavapipe has f16, SwiftShader has not, and their subgroups differ in size.
setup_renderers() {
  local file
  [[ $(uname) == Linux ]] || { note "no renderers in software for $(uname): the GPU's tests run on Linux only" && return; }
  have_lavapipe || { apt mesa-vulkan-drivers && have_lavapipe; } || die "no Vulkan renderer for the GPU's tests" \
    "Debian, Ubuntu: sudo apt-get install mesa-vulkan-drivers"
  for file in "$(dirname "$(readlink -f "$CHROME")")" /usr/lib/chromium /opt/google/chrome; do
    [[ -f $file/vk_swiftshader_icd.json ]] && SWIFTSHADER=$file/vk_swiftshader_icd.json && break
  done
  [[ -n $SWIFTSHADER ]] || die "Chromium's Vulkan renderer, vk_swiftshader_icd.json, was not found beside $CHROME" \
    "install Debian's chromium, or SWIFTSHADER=/path/to/vk_swiftshader_icd.json ./build.sh test"
}
LAVAPIPE=
SWIFTSHADER=${SWIFTSHADER:-}
have_lavapipe() {
  local file
  for file in /usr/share/vulkan/icd.d/lvp_icd*.json; do
    [[ -f $file ]] && LAVAPIPE=$file && return
  done
  return 1
}

# bundlers: the npm package in the bundlers that are too large to be part of `test`. They are installed for it.
bundlers() {
  once setup_chrome
  once page
  npm_install tests
  npm_install tests/bundlers
  node_tests tests/bundlers
}

clippy_wasm() {
  if [[ $WASM_CARGO == /usr/bin/cargo ]]; then # Its own clippy, if it is there: versions must agree.
    if [[ ! -x /usr/bin/clippy-driver ]]; then
      note "skipped: no clippy for $(/usr/bin/rustc -V) (rust-web-clippy)"
      return
    fi
    PATH=/usr/bin:$PATH wasm_cargo wasm "$WASM_FLAGS" clippy --profile "$PROFILE" -- -D warnings
    return
  fi
  wasm_cargo wasm "$WASM_FLAGS" clippy --profile "$PROFILE" -- -D warnings
}

run_tests() {
  stage "toolchains" setup_all
  stage "format" cargo fmt --all --check
  stage "clippy" cargo clippy --locked --all-targets -- -D warnings
  stage "clippy without a GPU, and for the fuzz target" \
    cargo clippy --locked -p candlewick -p candlewick-fuzz --no-default-features --lib --bins -- -D warnings
  stage "clippy for the kernels' benchmark" env CARGO_TARGET_DIR=target/kernels \
    cargo clippy --locked --manifest-path tests/bench/kernels/Cargo.toml -- -D warnings
  # Tests run beside each other: more threads in each would only wait for one another.
  stage "cargo test" env RAYON_NUM_THREADS=1 cargo test --locked
  [[ -z $LAVAPIPE ]] || stage "GPU tests on lavapipe" gpu_tests "$LAVAPIPE"
  # It is slow: part of the cases, and none of the engine's.
  [[ -z $SWIFTSHADER ]] || stage "GPU tests on SwiftShader" gpu_tests "$SWIFTSHADER" device:: models:: attention choose q4_0 q6_k
  stage "wasm" once wasm
  stage "clippy for wasm" clippy_wasm
  stage "npm package" once npm_package
  stage "demo page" once page
  stage "edge Worker" once edge
  stage "tsc --noEmit" types
  stage "edge tests" node_tests tests/edge
  stage "browser tests in Chromium" node_tests tests/browser
  # What has been seen to pass there; the rest of the storage's tests, and those with threads, run in Chromium alone.
  ! tests_in firefox || stage "browser tests in Firefox" \
    browser_tests firefox engine errors gpu "schedules=into files|into the database" \
    "store=comes from the Hub once|is resumed where|wrong on its server|makes room|while it comes|by two tabs|storage was deleted"
  ! tests_in webkit || stage "browser tests in WebKit" browser_tests webkit engine errors "store=comes from the Hub once"
  say "all green"
}

setup_all() {
  once setup_rust
  once setup_lints
  once pick_wasm
  # The distribution's compiler wants its own clippy. `test` says so where it cannot be had.
  [[ $WASM_CARGO != /usr/bin/cargo || -x /usr/bin/clippy-driver ]] || apt rust-web-clippy || true
  once setup_bindgen
  once setup_node
  once setup_browsers
  once setup_renderers
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
  test     everything that must be green
  bundlers the npm package in webpack, Next, Rollup and Parcel
  bench    measure; options after --, see tests/bench/README.md
  kernels  the same for the CPU's matrix kernels alone
  clean    remove what was built; keeps target/tools
  help     this

  --release  the form that is published: fat LTO, wasm-opt; slow to build
  CHROME, FIREFOX, MINIBROWSER  the browsers for the tests, if not those that are found
  CANDLEWICK_BROWSERS=chromium,firefox  test in these only (default: chromium,firefox,webkit)
TEXT
}

clean() {
  rm -rf pkg/dist pkg/wasm pkg/node_modules www/dist www/node_modules www/edge/dist www/edge/node_modules tests/node_modules tests/bundlers/node_modules
  [[ ! -d target ]] || find target -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +
}

bench() {
  stage "native" once native
  stage "demo page" once page
  stage "browser" once setup_chrome
  npm_install tests
  stage "kernels alone" once build_kernels
  stage "bench" node tests/bench/bench.js ${BENCH_OPTIONS[@]+"${BENCH_OPTIONS[@]}"}
}

# What a matrix product takes without the rest of a model: its ceiling.
build_kernels() {
  local form flags
  once setup_rust
  once pick_wasm
  for form in simd128 relaxed; do
    flags=$WASM_FLAGS
    [[ $form == simd128 ]] || flags+=,+relaxed-simd
    env ${WASM_ENV[@]+"${WASM_ENV[@]}"} RUSTFLAGS="$flags -C llvm-args=-disable-lsr" CARGO_TARGET_DIR="target/kernels/$form" \
      "$WASM_CARGO" build --locked --release --manifest-path tests/bench/kernels/Cargo.toml --target "$WASM_TARGET" \
      ${WASM_ARGS[@]+"${WASM_ARGS[@]}"}
    cp "target/kernels/$form/$WASM_TARGET/release/kernels.wasm" "target/kernels/$form.wasm"
  done
}

kernels() {
  stage "demo page" once page
  stage "browser" once setup_chrome
  npm_install tests
  stage "kernels alone" once build_kernels
  stage "kernels" node tests/bench/kernels.js ${BENCH_OPTIONS[@]+"${BENCH_OPTIONS[@]}"}
}

main() {
  local -a targets=()
  while (($#)); do
    case $1 in
      --release) PROFILE=release ;;
      --port) PORT=${2:?--port needs a number} && shift ;;
      --port=*) PORT=${1#*=} ;;
      -h | --help) targets+=(help) ;;
      --) shift && BENCH_OPTIONS=("$@") && break ;;
      setup | native | wasm | npm | demo | edge | test | bundlers | bench | kernels | clean | help) targets+=("$1") ;;
      *) usage >&2 && die "unknown target: $1" ;;
    esac
    shift
  done
  ((${#targets[@]})) || targets=(help)
  local target
  for target in "${targets[@]}"; do
    case $target in
      setup) stage "setup" setup_all ;;
      native) stage "native" once native ;;
      wasm) stage "wasm" once wasm ;;
      npm) stage "npm package" once npm_package ;;
      demo) demo ;;
      edge) stage "edge Worker" once edge ;;
      test) run_tests ;;
      bundlers) stage "bundlers" bundlers ;;
      bench) bench ;;
      kernels) kernels ;;
      clean) clean ;;
      help) usage ;;
    esac
  done
}
main "$@"
