//! The pieces of a content: `[repo, etag, start, end]` and their bytes.

use super::connection::{PIECES, array, done, failure};
use crate::Result;
use crate::store::{Key, Written};
use js_sys::{Array, Uint8Array};
use std::ops::Range;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, IdbCursor, IdbCursorDirection, IdbKeyRange, IdbTransaction};

/// One of a content's pieces.
pub struct Piece {
    pub id: JsValue,
    pub range: Range<u64>,
}

impl Piece {
    pub fn of(id: JsValue) -> Option<Piece> {
        let parts = Array::from(&id);
        let number = |index| parts.get(index).as_f64().map(|number| number as u64);
        let range = number(2)?..number(3)?;
        Some(Piece { id, range })
    }
}

/// All of a content's pieces, in order. None lies over another.
pub async fn all(transaction: &IdbTransaction, key: &Key) -> Result<Vec<Piece>> {
    listed(transaction, all_ids(key)).await
}

/// Those of a content's pieces that have a part in `range`, in order.
pub async fn within(transaction: &IdbTransaction, key: &Key, range: &Range<u64>) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    // Of those that begin before, only the last can reach into it.
    let before = IdbKeyRange::bound(&id(key, []), &id(key, [range.start]));
    let before = before.and_then(|ids| {
        let pieces = transaction.object_store(PIECES)?;
        pieces.open_key_cursor_with_range_and_direction(&ids, IdbCursorDirection::Prev)
    });
    if let Ok(cursor) = done(before).await.map_err(failure)?.dyn_into::<IdbCursor>() {
        let piece = Piece::of(cursor.key().map_err(failure)?);
        pieces.extend(piece.filter(|piece| range.start < piece.range.end));
    }
    let inside = IdbKeyRange::bound(&id(key, [range.start]), &id(key, [range.end]));
    pieces.extend(listed(transaction, inside).await?);
    Ok(pieces)
}

async fn listed(transaction: &IdbTransaction, ids: Result<IdbKeyRange, JsValue>) -> Result<Vec<Piece>> {
    let pieces = transaction.object_store(PIECES);
    let request = ids.and_then(|ids| pieces?.get_all_keys_with_key(&ids));
    let ids = Array::from(&done(request).await.map_err(failure)?);
    Ok(ids.iter().filter_map(Piece::of).collect())
}

/// A part of a piece's bytes.
pub fn slice(held: &JsValue, part: Range<u64>) -> Result<JsValue, JsValue> {
    Ok(match held.dyn_ref::<Blob>() {
        Some(blob) => blob.slice_with_f64_and_f64(part.start as f64, part.end as f64)?.into(),
        None => Uint8Array::new(held).slice(part.start as u32, part.end as u32).into(),
    })
}

/// The bytes themselves.
pub async fn bytes_of(held: JsValue) -> Result<Uint8Array, JsValue> {
    Ok(Uint8Array::new(&match held.dyn_ref::<Blob>() {
        Some(blob) => JsFuture::from(blob.array_buffer()).await?,
        None => held,
    }))
}

/// What of the content they are.
pub fn written(pieces: &[Piece]) -> Written {
    let mut written = Written::default();
    pieces.iter().for_each(|piece| written.add(piece.range.clone()));
    written
}

/// What a piece is kept under.
pub fn piece_id(key: &Key, range: &Range<u64>) -> JsValue {
    id(key, [range.start, range.end])
}

/// The ids of all of a content's pieces.
pub fn all_ids(key: &Key) -> Result<IdbKeyRange, JsValue> {
    let last = array([key.repo.as_str(), &key.etag]);
    // Arrays come after all numbers.
    last.push(&Array::new());
    IdbKeyRange::bound(&id(key, []), &last)
}

/// An id as far as `numbers` say; those that go on come after it.
fn id<const N: usize>(key: &Key, numbers: [u64; N]) -> JsValue {
    let id = array([key.repo.as_str(), &key.etag]);
    for number in numbers {
        id.push(&(number as f64).into());
    }
    id.into()
}
