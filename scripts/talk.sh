# What the scripts say, and how long each stage took.

declare -a TIMES=() FINISHED=()
STAGE=

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
