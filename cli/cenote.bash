# Made by 'cenote help --bash' from the tables in cli/options.c.
_cenote()
{
    local word=${COMP_WORDS[COMP_CWORD]} options=
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W 'run chat plan inspect doctor pack demo layout replay help --help --version' -- "$word"))
        return
    fi
    case ${COMP_WORDS[1]} in
    run) options='--image --prompt --system --memory --max-tokens --max-image-tokens --threads --sample --temperature --top-k --top-p --repetition-penalty --seed --raw-prompt --parse-special --kv-type --unpacked --cache --draft --io --json --logits --quiet --help' ;;
    chat) options='--image --system --memory --max-context --max-tokens --max-image-tokens --threads --sample --temperature --top-k --top-p --repetition-penalty --seed --parse-special --kv-type --unpacked --cache --draft --io --history --json --quiet --help' ;;
    plan) options='--memory --image --prompt-tokens --max-tokens --max-image-tokens --threads --kv-type --unpacked --cache --io --sweep --measure --json --quiet --help' ;;
    inspect) options='--json --quiet --help' ;;
    doctor) options='--json --help' ;;
    pack) options='--out --cache --force --verify --json --quiet --help' ;;
    demo) options='--memory --threads --quiet --help' ;;
    layout) options='--time-limit --steps --capacity --json --quiet --help' ;;
    replay) options='--allocator --budget --generate --memory-viz --json --quiet --help' ;;
    esac
    case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}
complete -o filenames -F _cenote cenote
