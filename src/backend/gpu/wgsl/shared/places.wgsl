// Quants of four bits that are places in TABLE, sixteen signed bytes, which the format says.
#import shared/bytes

fn number_at(place: u32) -> u32 {
    return (TABLE[place >> 2u] >> (8u * (place & 3u))) & 0xffu;
}

// Four numbers, a signed byte each, for the places in the low halves of four bytes.
fn numbers_at(places: u32) -> u32 {
    return number_at(places & 15u) | (number_at((places >> 8u) & 15u) << 8u)
        | (number_at((places >> 16u) & 15u) << 16u) | (number_at((places >> 24u) & 15u) << 24u);
}
