# What the targets need: found, or installed where that can be done.

readonly TOOLS=$PWD/target/tools
readonly WASM_TARGET=wasm32-unknown-unknown
readonly BINARYEN=132.0.0

have() { command -v "$1" >/dev/null 2>&1; }
# at_least HAVE WANT: version comparison.
at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]; }

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
declare -a WASM_ENV=() WASM_ARGS=() NOTED=()
WASM_CARGO=cargo

wasm_linker() {
  local name version
  for name in "wasm-ld-$1" wasm-ld; do have "$name" && command -v "$name" && return; done
  for version in 25 24 23 22 21 20 19; do have "wasm-ld-$version" && command -v "wasm-ld-$version" && return; done
  return 1
}

# use_wasm RUSTC: take this compiler if it can build for wasm32, with its own standard library or by building it.
use_wasm() {
  local rustc=$1 mode=$2 sysroot host llvm linker version
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
  version="wasm: $("$rustc" -V), standard library $mode"
  [[ " ${NOTED[*]-} " == *" $version "* ]] || { note "$version" && NOTED+=("$version"); }
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

# wasm-opt, if it can be had.
setup_binaryen() {
  WASM_OPT=$TOOLS/binaryen-$BINARYEN/node_modules/.bin/wasm-opt
  once setup_node
  [[ -x $WASM_OPT ]] || npm install --no-audit --no-fund --loglevel=error --prefix "$TOOLS/binaryen-$BINARYEN" "binaryen@$BINARYEN" >&2 ||
    { note "binaryen cannot be installed" && WASM_OPT=; }
}

# ---------------------------------------------------------------- Node and the browsers

setup_node() {
  local version
  if ! have node || ! have npm; then apt nodejs npm || true; fi
  hash -r
  have node || die "Node.js is missing" "install Node 20.19 or newer: https://nodejs.org/en/download"
  have npm || die "npm is missing" "it comes with Node from https://nodejs.org; Debian: sudo apt-get install npm"
  version=$(node -p process.versions.node)
  at_least "$version" 20.19 || die "Node $version is too old" "install Node 20.19 or newer: https://nodejs.org/en/download"
}

# npm_install FOLDER: `npm ci`, when the lock file is newer than what was installed last.
npm_install() {
  [[ $1/node_modules/.package-lock.json -nt $1/package-lock.json ]] && return
  note "npm ci in $1/"
  (cd "$1" && npm ci --no-audit --no-fund --loglevel=error </dev/null >&2) ||
    die "npm ci failed in $1/" "check the network; if package.json changed, run npm install in $1/ and commit package-lock.json"
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

# setup_browsers: those that the tests run in.
setup_browsers() {
  local name
  for name in ${BROWSERS//,/ }; do
    case $name in
      chromium) once setup_chrome ;;
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

# setup_renderers: Vulkan renderers in software. Lavapipe has f16, SwiftShader has not, and their subgroups differ in size.
setup_renderers() {
  local file
  [[ $(uname) == Linux ]] || { note "no renderers in software for $(uname): the GPU's tests run on Linux only" && return; }
  once setup_chrome
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
