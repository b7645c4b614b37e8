// What a step says of its rows: four words each, then lists of pages. Whoever imports this binds it as `step_words`.
const PAGE: u32 = 64u;

fn token_of(row: u32) -> u32 {
    return step_words[4u * row];
}

fn position_of(row: u32) -> u32 {
    return step_words[4u * row + 1u];
}

// Where the pages of the row's sequence are listed.
fn pages_of(row: u32) -> u32 {
    return step_words[4u * row + 2u];
}

// The slot of the row's sequence in recurrent layers' states.
fn slot_of(row: u32) -> u32 {
    return step_words[4u * row + 3u];
}

// Which of the positions that a cache has room for this one of a sequence is, for one of its key heads.
fn place(pages: u32, position: u32, kv_head: u32, kv_heads: u32) -> u32 {
    return (step_words[pages + position / PAGE] * kv_heads + kv_head) * PAGE + position % PAGE;
}
