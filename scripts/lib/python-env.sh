# shellcheck shell=bash
# Finds a Python, makes a virtual environment with it and installs this package there, once.
# Sourced by scripts/demo and scripts/test. Callers set REPO (the checkout's root) and PROGRAM (the name in messages).

HOME=${HOME:-/}

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; exit 1; }

# MAJOR MINOR PATH of the interpreter behind a command, nothing where it does not run: version managers put stand-ins
# on PATH that exist but refuse, so a candidate counts only once it has said who it is.
python_identity() {
  timeout 20 "$1" -I -c 'import sys
print(*sys.version_info[:2], getattr(sys, "_base_executable", "") or sys.executable)' 2>/dev/null
}

# Every place worth trying for the minor versions given, best first, one command a line.
python_candidates() {
  local minor
  for minor in "$@"; do
    type -aP "python3.$minor" || true
    printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/"python3.$minor"
    printf '%s\n' "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}/cpython-3.$minor".*/bin/"python3.$minor"
  done
  type -aP python3 || true
  type -aP python || true
}

# find_python MINOR...  prints the path of the first that runs; the smallest MINOR is also the least that a plain
# `python3` may be. Leaves what it met and refused in PYTHON_REFUSED. Fails when there is none.
find_python() {
  local least candidate identity major minor path
  least=$(printf '%s\n' "$@" | sort -n | head -n 1)
  PYTHON_REFUSED=""
  while read -r candidate; do
    [ -x "$candidate" ] || continue
    if ! identity=$(python_identity "$candidate") || [ -z "$identity" ]; then
      PYTHON_REFUSED+="    $candidate (does not run)"$'\n'
      continue
    fi
    read -r major minor path <<<"$identity"
    if [ "$major" -eq 3 ] && [ "$minor" -ge "$least" ]; then
      FOUND_PYTHON=$path
      FOUND_VERSION="$major.$minor"
      return 0
    fi
    PYTHON_REFUSED+="    $candidate (Python $major.$minor)"$'\n'
  done < <(python_candidates "$@")
  return 1
}

explain_no_python() {
  local minor wanted=""
  for minor in "$@"; do wanted+="${wanted:+, }3.$minor"; done
  say "$PROGRAM: found no usable Python. Wanted: one of $wanted."
  say "  Looked for python3.X of these, python3 and python on PATH, then"
  say "    ${PYENV_ROOT:-$HOME/.pyenv}/versions (pyenv)"
  say "    ${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python} (uv)"
  [ -z "$PYTHON_REFUSED" ] || say "  Met, but could not use:"$'\n'"${PYTHON_REFUSED%$'\n'}"
  say "  To get one, any of:"
  say "    sudo apt-get install python3 python3-venv    (Debian 12 has 3.11, Debian 13 has 3.13, Ubuntu 24.04 has 3.12)"
  say "    uv python install 3.$1"
  say "    pyenv install 3.$1"
}

# run_step LABEL LOG COMMAND...  runs COMMAND with its output in LOG, showing LABEL, the time so far and, of the log,
# what is being worked on; a tidy line at the end. Fails as the command does.
run_step() {
  local label=$1 log=$2 pid status=0 started=$SECONDS
  shift 2
  set -m # a process group of its own: what it starts in turn is stopped with it
  "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  set +m
  # shellcheck disable=SC2064
  trap "kill -- -$pid 2>/dev/null; exit 130" INT TERM
  show_progress "$label" "$log" "$pid" "$started"
  wait "$pid" || status=$?
  trap 'exit 130' INT TERM
  if [ "$status" -eq 0 ]; then
    say "✓ $label ($((SECONDS - started)) s)"
  else
    say "✗ $label failed after $((SECONDS - started)) s"
  fi
  return "$status"
}

show_progress() {
  local label=$1 log=$2 pid=$3 started=$4 spin='|/-\' beat=0 columns
  if [ -t 2 ]; then
    columns=$(tput cols 2>/dev/null || echo 80)
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r\033[K%.*s' "$((columns - 1))" \
        "${spin:beat++%4:1} $label ($((SECONDS - started)) s) $(latest_activity "$log")" >&2
      sleep 0.2
    done
    printf '\r\033[K' >&2
    return
  fi
  say "… $label"
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    beat=$((beat + 1))
    [ $((beat % 20)) -ne 0 ] || say "  … $((SECONDS - started)) s $(latest_activity "$log")"
  done
}

# What pip is at, from its log: its warnings about unreachable index locations are noise here.
latest_activity() {
  { grep -aE '^ *(Collecting|Downloading|Building|Installing|Using cached|Preparing|Obtaining)' "$1" 2>/dev/null || true; } |
    tail -n 1 | sed -E 's/^ +//; s#(https?|file)://[^ ]*/##g' | cut -c 1-70
}

# make_venv PYTHON DIR  by whichever means this machine has: a bare Debian python3 has no ensurepip.
make_venv() {
  local python=$1 dir=$2
  if "$python" -I -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$dir" && return
  fi
  if "$python" -m virtualenv --version >/dev/null 2>&1; then
    "$python" -m virtualenv --quiet "$dir" && return
  fi
  if command -v virtualenv >/dev/null 2>&1; then
    virtualenv --quiet --python "$python" "$dir" && return
  fi
  if command -v uv >/dev/null 2>&1; then
    uv venv --quiet --seed --allow-existing --python "$python" "$dir" && return
  fi
  if "$python" -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --without-pip "$dir" && "$python" -m pip --python "$dir/bin/python" install pip && return
  fi
  return 1
}

# What an environment was made from; equal stamps mean that there is nothing to do, and no network to ask.
env_stamp() {
  local python=$1 version=$2 extras=$3
  { cat "$REPO/pyproject.toml"; cat "$REPO"/inference_service/core/native/*.c 2>/dev/null || true; printf '%s\n' "$python" "$version" "$extras" "$REPO"; } | sha256sum | cut -d ' ' -f 1
}

# ensure_env DIR EXTRAS MINOR...  leaves a ready environment in DIR and its interpreter in ENV_PYTHON.
ensure_env() {
  local dir=$1 extras=$2 log="$1/install.log" stamp
  shift 2
  # Without it Bash goes on where the interrupted command ends in another way than by the signal.
  trap 'exit 130' INT TERM
  find_python "$@" || { explain_no_python "$@"; exit 1; }
  mkdir -p "$dir" || die "cannot create $dir; set INFERENCE_SERVICE_HOME to a writable place"
  lock_env "$dir"
  stamp=$(env_stamp "$FOUND_PYTHON" "$FOUND_VERSION" "$extras")
  ENV_PYTHON=$dir/bin/python
  if [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$stamp" ] && "$ENV_PYTHON" -I -c '' 2>/dev/null; then
    trap - INT TERM
    return 0
  fi
  : >"$log"
  announce_install "$dir" "$extras"
  rebuild_env "$dir" "$log"
  run_step "Installing what this run needs" "$log" install_package "$extras" || explain_install_failure "$log"
  printf '%s\n' "$stamp" >"$dir/.stamp"
  rm -f "$dir/.unfinished"
  trap - INT TERM
}

# An old pip may search for hours where a newer one sees at once which versions go together.
OLDEST_PIP=24

install_package() {
  local pip=("$ENV_PYTHON" -m pip --disable-pip-version-check)
  if [ "$("${pip[@]}" --version | sed -E 's/^pip ([0-9]+).*/\1/')" -lt "$OLDEST_PIP" ]; then
    "${pip[@]}" install --progress-bar off --upgrade pip || echo "pip could not be updated; going on with the old one"
  fi
  "${pip[@]}" install --progress-bar off -e "$REPO[$1]"
}

# Two starts at once must not install into one environment.
lock_env() {
  command -v flock >/dev/null 2>&1 || return 0
  exec 9>"$1/.lock" || die "cannot write to $1; set INFERENCE_SERVICE_HOME to a writable place"
  flock -n 9 && return 0
  say "Another start is preparing $1; waiting for it (at most 15 minutes)."
  flock -w 900 9 || die "gave up waiting for the other start"
}

unlock_env() { exec 9>&-; }

announce_install() {
  say "First start: preparing Python $FOUND_VERSION in $1 (kept for the next start)."
  case "$2" in
    *lerobot*)
      say "LeRobot brings torch with its CUDA libraries: about 3 GB to download, 5 GB on disk. This takes minutes."
      local free
      free=$(df -Pk "$(dirname "$1")" | awk 'NR == 2 {print int($4 / 1048576)}')
      [ "$free" -ge 8 ] || say "WARNING: only $free GB are free there; the installation may run out of space."
      ;;
  esac
}

# A new environment, or the one that stands where it belongs to the same Python.
rebuild_env() {
  local dir=$1 log=$2
  if [ -f "$dir/pyvenv.cfg" ]; then
    if [ "$(python_identity "$dir/bin/python")" = "${FOUND_VERSION/./ } $FOUND_PYTHON" ]; then
      "$dir/bin/python" -m pip --version >/dev/null 2>&1 && { rm -f "$dir/.stamp"; return 0; }
    fi
    touch "$dir/.unfinished"
    empty_env "$dir"
  elif [ -e "$dir/.unfinished" ]; then # a start that was stopped in the middle left it so
    empty_env "$dir"
  elif [ -n "$(ls -A "$dir" | grep -vxE '\.lock|install\.log')" ]; then
    die "$dir exists and is not a virtual environment; move it away"
  fi
  touch "$dir/.unfinished"
  run_step "Making a virtual environment" "$log" make_venv "$FOUND_PYTHON" "$dir" && return 0
  empty_env "$dir"
  say "$PROGRAM: $FOUND_PYTHON cannot make virtual environments (no ensurepip), and there is no virtualenv, uv or pip."
  say "  On Debian and Ubuntu: sudo apt-get install python$FOUND_VERSION-venv"
  say "  Elsewhere: install 'virtualenv' or 'uv'. Full output: $log"
  exit 1
}

empty_env() { find "$1" -mindepth 1 -maxdepth 1 ! -name .lock ! -name install.log ! -name .unfinished -exec rm -rf {} +; }

explain_install_failure() {
  local log=$1
  say "$PROGRAM: pip could not install. Its last words:"
  grep -avE '^(WARNING: Location|\[notice\])' "$log" | tail -n 12 | sed 's/^/    /' >&2
  if grep -aqE 'Temporary failure in name resolution|NewConnectionError|Network is unreachable' "$log"; then
    say "  The package index was not reachable. Only the first start needs a network."
  elif grep -aqiE 'cyclonedds.*(CYCLONEDDS_HOME|wheel)|Could not locate cyclonedds' "$log"; then
    say "  cyclonedds has no ready wheel for this machine. On Debian: sudo apt-get install cyclonedds-dev build-essential,"
    say "  then set CYCLONEDDS_HOME to a directory with its lib, include and bin; the images under docker/ do the same."
  fi
  say "  Full output: $log"
  exit 1
}
