# Read by the scripts beside it: `step NAME MODULE ARGUMENTS...` runs python -m MODULE ARGUMENTS, unless just that was
# done in $OUT before (done/NAME holds its words). After a step that ran, all that follow run, as what they read has
# changed. The commands themselves go on where they were killed.
mkdir -p "$OUT/done"
fresh=
step() {
    local name=$1 words="${*:2}"
    if [[ -z $fresh && -f $OUT/done/$name && $(<"$OUT/done/$name") == "$words" ]]; then
        printf '== %s: done before\n' "$name"
        return
    fi
    fresh=yes
    rm -f "$OUT/done/$name"
    printf '\n== %s: python -m %s\n' "$name" "$words"
    "$PYTHON" -m "${@:2}" || return
    printf '%s\n' "$words" > "$OUT/done/$name"
}
