#!/usr/bin/env bash
# check.sh [--all | --format] -- formatting, layering, sizes and house rules of the whole tree; clang-tidy on the
# changed files. "Changed" is against HEAD, or against HEAD~1 where the tree is clean.
#
#   --all     clang-tidy on every file, without a time limit
#   --format  only run clang-format over the files, in place
#
# QATTRAIN_TIDY_SECONDS  time that clang-tidy gets for changed files (default 240); what is left then is named
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

case "${1:-}" in
  "" | --all | --format) mode=${1:-} ;;
  *) echo "usage: scripts/check.sh [--all | --format]" >&2 && exit 2 ;;
esac

failed=0
report() { # report TITLE TEXT: a failure where TEXT is not empty
  if [[ -n $2 ]]; then
    printf 'FAILED: %s\n%s\n' "$1" "$2"
    failed=1
  else
    printf 'ok: %s\n' "$1"
  fi
}

# Tracked files and new ones that git does not ignore, without those that were deleted.
list() { git ls-files --cached --others --exclude-standard "$@" | sort -u | while read -r f; do [[ -f $f ]] && echo "$f"; done; }
mapfile -t sources < <(list '*.cpp' '*.h')
mapfile -t shell_scripts < <(list '*.sh' '*.sbatch' .ci/run)
if ((${#sources[@]} == 0)); then
  echo "check.sh: no source files found" >&2
  exit 1
fi
if [[ $mode == --format ]]; then
  exec clang-format -i "${sources[@]}"
fi

# ---- layering: who may include whom -------------------------------------------------------------
layering() {
  grep -Hn '^ *# *include "' "${sources[@]}" | awk -F'[:"]' '
    BEGIN {
      may["core"] = "core"
      may["quant"] = "quant core"
      may["layers"] = "layers quant core"
      may["distributed"] = "distributed core"
      may["data"] = "data core"
      may["deploy"] = "deploy layers quant core"
      may["train"] = "train deploy layers quant data distributed core"
      may["tests"] = "tests " may["train"]
      may["scripts"] = "scripts " may["tests"]
      rank["base"] = 0; rank["device"] = rank["tensor"] = 1; rank["kernel"] = 2
      rank["autograd"] = rank["library"] = rank["comm"] = 3; rank["ops"] = 4
    }
    {
      split($1, from, "/"); split($4, to, "/")
      if (index(" " may[from[1]] " ", " " to[1] " ") == 0)
        print $1 ":" $2 ": " from[1] "/ may not include \"" $4 "\" (allowed: " may[from[1]] "; paths start at the root)"
      else if (from[1] == "core" && to[1] == "core" && rank[to[2]] > rank[from[2]])
        print $1 ":" $2 ": core/" from[2] " stands below core/" to[2] " and may not include \"" $4 "\""
    }'
}

# ---- sizes: files of at most 650 lines, functions of at most 60 ---------------------------------
# With clang-format's layout, the last line at a closing brace's own indent is what opened it.
sizes() {
  awk '
    FNR == 1 { if (NR > 1) close_file(); file = FILENAME; split("", opener) }
    { lines = FNR }
    /^ *(#|\/\/|$)/ { next }
    {
      match($0, /^ */); indent = RLENGTH
      if (indent > 4) next
      text = substr($0, indent + 1)
      if (text ~ /^}/ && opener[indent] ~ /\(/ &&
          opener[indent] !~ /^(if|for|while|switch|else|do|try|catch|namespace|struct|class|enum|union|extern|return|}|\))/ &&
          FNR - start[indent] + 1 > 60)
        print file ":" start[indent] ": a function of " FNR - start[indent] + 1 " lines (at most 60)"
      if (text !~ /^(:|\))/ && !(opener[indent] ~ /^template/ && text !~ /^}/ && opener[indent] !~ /[;{]$/)) start[indent] = FNR
      opener[indent] = text
    }
    END { close_file() }
    function close_file() { if (lines > 650) print file ": " lines " lines (at most 650)" }
  ' "${sources[@]}"
}

# ---- house rules --------------------------------------------------------------------------------
house_rules() {
  local file
  for file in "${sources[@]}"; do
    [[ $(head -n 1 "$file") == "// $file -- "* ]] || echo "$file:1: must open with '// $file -- what it is.'"
    case ${file##*/} in
      *util* | *helper* | *manager* | *impl.* | *impl_*) echo "$file: a name that says nothing" ;;
    esac
  done
  grep -nwE 'TODO|FIXME|XXX' "${sources[@]}" | sed 's/$/   <- finish it or file it/'
  grep -nE '(=|\(|return|,) *new [A-Za-z_:]+ *[<({[]|^ *delete *(\[\])? *[a-z_]' "${sources[@]}" | sed 's/$/   <- own it with a smart pointer/'
  printf '%s\n' "${sources[@]}" | grep -vE '^(core/kernel|tests)/' |
    xargs grep -nE '^ *# *pragma omp|<<<' | sed 's/$/   <- launches belong to core\/kernel/'
  return 0
}

# ---- size per folder and what the change did to it ----------------------------------------------
base=HEAD
if git rev-parse -q --verify HEAD >/dev/null; then
  if [[ -z $(git status --porcelain) && $(git rev-parse --is-shallow-repository) == false ]]; then
    base=$(git rev-parse -q --verify HEAD~1) || base=
  fi
else
  base=
fi
base=${base:-$(git hash-object -t tree /dev/null)} # no earlier commit: against the empty tree
changed_lines() { # lines of "added removed path" against $base, new files included
  git diff --numstat --no-renames "$base" -- '*.cpp' '*.h'
  git ls-files --others --exclude-standard '*.cpp' '*.h' | while read -r file; do
    printf '%s\t0\t%s\n' "$(wc -l <"$file")" "$file"
  done
}
print_sizes() {
  {
    wc -l "${sources[@]}" | awk '$2 != "total" {print "size", $1, 0, $2}'
    changed_lines | awk '{print "change", $1, $2, $3}'
  } | awk '
    { split($4, part, "/"); folder = part[1]; if (folder == "core") folder = part[1] "/" part[2]; seen[folder] = 1 }
    $1 == "size" { lines[folder] += $2; files[folder]++ }
    $1 == "change" { added[folder] += $2; removed[folder] += $3 }
    END {
      for (f in seen) {
        printf "  %-16s %3d files %6d lines  %+6d %6d\n", f, files[f], lines[f], added[f], -removed[f] | "sort"
        if (f != "tests") total += lines[f]
      }
      close("sort")
      printf "  the engine without tests: %d lines\n", total
    }'
}

# ---- clang-tidy ---------------------------------------------------------------------------------
tidy() {
  local files=() log seconds=${QATTRAIN_TIDY_SECONDS:-240}
  if [[ $mode == --all ]]; then
    mapfile -t files < <(printf '%s\n' "${sources[@]}" | grep '\.cpp$')
    seconds=0 # no limit
  else
    mapfile -t files < <(changed_lines | cut -f 3 | grep '\.cpp$' | while read -r f; do [[ -f $f ]] && echo "$f"; done)
  fi
  if ((${#files[@]} == 0)); then
    echo "ok: clang-tidy (no changed files)"
    return
  fi
  if ! cmake --preset cpu >/dev/null; then
    report "clang-tidy" "cmake --preset cpu fails, so that there is no list of compile commands"
    return
  fi
  log=$(mktemp -d)
  # shellcheck disable=SC2016  # the inner shell expands it. Each file leaves a mark when it is through, so that what the time limit cut off can be named.
  printf '%s\n' "${files[@]}" | timeout "$seconds" xargs -P "$(nproc)" -I{} sh -c '
    log=$1/$(echo "$2" | tr / _)
    clang-tidy --quiet -p build/cpu "$2" >"$log.running" 2>/dev/null || touch "$log.failed"
    mv "$log.running" "$log.done"' sh "$log" {}
  local missed=() file
  for file in "${files[@]}"; do
    [[ -f $log/${file//\//_}.done ]] || missed+=("$file")
  done
  report "clang-tidy ($((${#files[@]} - ${#missed[@]})) of ${#files[@]} files)" \
    "$(find "$log" -name '*.failed' | while read -r f; do grep -hE '(error|warning): ' "${f%.failed}.done" ||
      echo "clang-tidy failed without a finding on ${f##*/}"; done | sed "s|^$PWD/||" | sort -u)"
  if ((${#missed[@]} > 0)); then
    echo "NOT CHECKED by clang-tidy within $seconds s (scripts/check.sh --all has no limit): ${missed[*]}"
  fi
  rm -rf "$log"
}

report "clang-format (scripts/check.sh --format mends it)" \
  "$(clang-format --dry-run -Werror "${sources[@]}" 2>&1 | sed -nE 's/^([^: ]+):[0-9]+:[0-9]+: error:.*/\1/p' | uniq -c)"
report "layering" "$(layering)"
report "sizes" "$(sizes)"
report "house rules" "$(house_rules)"
if command -v shellcheck >/dev/null; then
  report "shellcheck" "$(shellcheck "${shell_scripts[@]}")"
fi
if command -v clang-tidy >/dev/null; then
  tidy
else
  echo "NOT CHECKED: clang-tidy is not installed"
fi
echo "size per folder; added and removed against ${base:0:12}:"
print_sizes
exit $failed
