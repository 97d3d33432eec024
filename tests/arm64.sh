#!/usr/bin/env bash
# Compiles the kernels for arm64, runs them under qemu, and compares every result with AVX2's, bit for bit.
# Needs an x86-64 machine with AVX2; Debian: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=c11 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-psabi -Wno-unknown-pragmas -Icsrc"

build() { # compiler, program, then "SET FLAGS" for each instruction set
    local cc=$1 program=$2 objects=() isa source
    shift 2
    for isa in "$@"; do
        for source in elementwise reduce gemm checksum; do
            objects+=("$work/$program-$source-${isa%% *}.o")
            # shellcheck disable=SC2086
            $cc $flags -DFG_ISA=${isa%% *} ${isa#* } -c "csrc/$source.c" -o "${objects[-1]}"
        done
    done
    # shellcheck disable=SC2086
    $cc $flags -static tests/kernels.c csrc/dispatch.c "${objects[@]}" -lm -o "$work/$program"
}

build "${CC:-cc}" x86 "baseline -msse2" "avx2 -mavx2 -mfma" \
    "avx512 -mavx2 -mfma -mbmi2 -mavx512f -mavx512vl -mavx512bw -mavx512dq" &
build aarch64-linux-gnu-gcc arm "baseline -O3" &
failed=0
wait -n || failed=1
wait -n || failed=1 # the other still writes to the directory
((failed == 0)) || exit 1
"$work/x86" avx2 > "$work/avx2.txt"
qemu-aarch64 "$work/arm" > "$work/arm64.txt"
if ! diff "$work/avx2.txt" "$work/arm64.txt" > "$work/diff.txt"; then
    echo "$(grep -c '^<' "$work/diff.txt") of $(wc -l < "$work/avx2.txt") results differ (<: avx2, >: arm64):"
    head -40 "$work/diff.txt"
    exit 1
fi
echo "arm64 and avx2 agree in all of $(wc -l < "$work/avx2.txt") results"
