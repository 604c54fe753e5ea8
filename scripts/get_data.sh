#!/usr/bin/env bash
# get_data.sh cifar10|cifar100 DIR -- fetches the official binary archive, checks it, and unpacks it into DIR.
#
# Exit codes: 0 done, 1 could not fetch or unpack, 2 usage, 3 wrong checksum (the file is removed).
# QATTRAIN_DATA_URL  folder to fetch from instead of the official one (a mirror; file:// works)
# QATTRAIN_DATA_MD5  checksum to expect instead of the official one
set -euo pipefail

usage() {
  echo "usage: scripts/get_data.sh cifar10|cifar100 DIR" >&2
  exit 2
}

(($# == 2)) || usage
case $1 in
  cifar10)
    archive=cifar-10-binary.tar.gz md5=c32a1d4ab5d03f1284b67883e8d87530 folder=cifar-10-batches-bin
    last_file=test_batch.bin
    ;;
  cifar100)
    archive=cifar-100-binary.tar.gz md5=03b5dce01913d631647c71ecec9e9cb8 folder=cifar-100-binary
    last_file=test.bin
    ;;
  *) usage ;;
esac
directory=$2
url=${QATTRAIN_DATA_URL:-https://www.cs.toronto.edu/~kriz}/$archive
md5=${QATTRAIN_DATA_MD5:-$md5}

fail() {
  echo "get_data.sh: $1" >&2
  exit "${2:-1}"
}

# Fetches $url into the file $1, going on where an earlier try stopped.
fetch() {
  if command -v curl >/dev/null; then
    curl --fail --location --show-error --retry 3 --continue-at - --output "$1" "$url"
  elif [[ $url == file://* ]]; then
    cp "${url#file://}" "$1"  # wget does not know file://
  elif command -v wget >/dev/null; then
    wget --tries=3 --continue --output-document="$1" "$url"
  else
    fail "neither curl nor wget is installed; apt-get install curl"
  fi
}

checksum() { md5sum "$1" | cut -d ' ' -f 1; }

if [[ -f $directory/$folder/$last_file ]]; then
  echo "already there: $directory/$folder"
  exit 0
fi
mkdir -p "$directory" || fail "cannot make the folder '$directory'"
file=$directory/$archive
part=$file.part

if [[ ! -f $file ]]; then
  # A part that is complete already must not be resumed: servers answer that with an error.
  if [[ ! -f $part || $(checksum "$part") != "$md5" ]]; then
    fetch "$part" || fail "could not fetch $url; what has come so far is kept in $part: run again to go on, or remove it to start anew"
  fi
  mv "$part" "$file"
fi

found=$(checksum "$file")
if [[ $found != "$md5" ]]; then
  rm -f "$file"
  fail "$url has MD5 $found, expected $md5; the file was removed, run again to fetch it anew" 3
fi

# Unpack beside the final name and rename, so that a folder that exists is complete.
unpacked=$(mktemp -d "$directory/.unpack-XXXXXX")
trap 'rm -rf "$unpacked"' EXIT
tar -xzf "$file" -C "$unpacked" || fail "could not unpack $file"
[[ -f $unpacked/$folder/$last_file ]] || fail "$file holds no $folder/$last_file"
rm -rf "${directory:?}/$folder"
mv "$unpacked/$folder" "$directory/$folder"
rm -f "$file"
echo "ready: $directory/$folder"
