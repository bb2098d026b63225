#!/bin/sh
# part.sh NAME COMMAND...: runs a part of the tests, and notes in the file $PARTS how long it took, and how long processors
# worked for it.
name=$1
shift
began=$(date +%s)
"$@"
status=$?
seconds=$(($(date +%s) - began))
# Its second line is what ended children used: minutes and seconds as user, and in the kernel. Not in a pipe, which would
# be a child without children.
times >"$PARTS.times"
worked=$(tail -n 1 "$PARTS.times" | tr 'ms' '  ' | awk '{ printf "%.0f", $1 * 60 + $2 + $3 * 60 + $4 }')
rm "$PARTS.times"
printf '%-32s %5d s, %5d s of processors\n' "$name" "$seconds" "$worked" | tee -a "$PARTS"
exit $status
