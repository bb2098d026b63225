#!/bin/sh
# part.sh NAME COMMAND...: runs a part of the tests, and records in the file $PARTS how long it took, and how
# much processor time it used.
name=$1
shift
began=$(date +%s)
"$@"
status=$?
seconds=$(($(date +%s) - began))
# The second line of `times` is what ended children used: minutes and seconds of user time and of kernel time.
# It goes to a file and not through a pipe, because the pipe's subshell has no children.
times >"$PARTS.$$"
worked=$(tail -n 1 "$PARTS.$$" | tr 'ms' '  ' | awk '{ printf "%.0f", $1 * 60 + $2 + $3 * 60 + $4 }')
rm "$PARTS.$$"
printf '%-32s %5d s, %5d s of processors\n' "$name" "$seconds" "$worked" | tee -a "$PARTS"
exit $status
