#!/bin/sh
# run PROGRAM [ARGUMENT ...] -- of a bundle (scripts/bundle.sh): runs a program of bin/. Called as `qattrain` it runs that one.
#
#   run --where       prints the folder of each CUDA library that was found, then ends
#   run --list        prints the programs
#
# CUDA's libraries are looked for in LD_LIBRARY_PATH, CUDA_HOME, the NVIDIA packages that come with PyTorch for
# QATTRAIN_PYTHON (default: python3), /usr/local/cuda, and where the system looks. The program's own libraries are
# always those in lib/. Nothing found is no error: the program says so where it needs a GPU.
root=$(dirname "$(readlink -f "$0")")
libraries='libcublasLt.so.13 libcublas.so.13 libcudnn.so.9 libnvrtc.so.13 libnccl.so.2'

# Folders that may hold CUDA libraries, one a line. Python is asked only where the others have not got all.
fixed_folders() {
  printf '%s\n' "${LD_LIBRARY_PATH:-}" | tr ':' '\n'
  if [ -n "${CUDA_HOME:-}" ]; then printf '%s\n' "$CUDA_HOME/lib64" "$CUDA_HOME/lib"; fi
}
python_folders() {
  "${QATTRAIN_PYTHON:-python3}" - 2>/dev/null <<'PYTHON'
import glob, importlib.util, os
for name, patterns in (("nvidia", ["*/lib"]), ("torch", ["lib"])):
    found = importlib.util.find_spec(name)
    for place in (found.submodule_search_locations or []) if found else []:
        for pattern in patterns:
            for folder in sorted(glob.glob(os.path.join(place, pattern))):
                print(folder)
PYTHON
}
system_folders() {
  printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda-13/lib64
  for library in $libraries; do
    { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | sed -n "s|^[[:space:]]*$library .*=> \(.*\)/[^/]*\$|\1|p"
  done
}
# first_with LIBRARY FOLDERS: the first folder that holds it.
first_with() {
  printf '%s\n' "$2" | while IFS= read -r folder; do
    if [ -n "$folder" ] && [ -e "$folder/$1" ]; then printf '%s\n' "$folder" && break; fi
  done
}

folders=$(fixed_folders)
for library in $libraries; do
  if [ -z "$(first_with "$library" "$folders")" ]; then
    folders=$(printf '%s\n' "$folders" "$(python_folders)" "$(system_folders)")
    break
  fi
done
path=''
for library in $libraries; do
  folder=$(first_with "$library" "$folders")
  if [ "${1:-}" = --where ]; then echo "$library: ${folder:-not found}"; fi
  case ":$path:" in
    *":$folder:"*) ;;
    *) if [ -n "$folder" ]; then path=${path:+$path:}$folder; fi ;;
  esac
done

case ${0##*/} in
  qattrain) program=qattrain ;;
  *)
    case ${1:-} in
      --where) exit 0 ;;
      --list) ls "$root/bin" && exit 0 ;;
      '' | -*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    program=$1
    shift
    ;;
esac
if [ ! -x "$root/bin/$program" ]; then
  echo "run: there is no $root/bin/$program; it holds: $(cd "$root/bin" && echo *)" >&2
  exit 2
fi
# For tests and scripts that were built elsewhere.
: "${QATTRAIN_SOURCE_DIR:=$root}" "${QATTRAIN_BINARY:=$root/bin/qattrain}" "${QATTRAIN:=$root/bin/qattrain}"
export QATTRAIN_SOURCE_DIR QATTRAIN_BINARY QATTRAIN
if [ -n "$path" ]; then
  LD_LIBRARY_PATH=$path${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH
fi
exec "$root/bin/$program" "$@"
