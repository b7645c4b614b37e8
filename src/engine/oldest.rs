//! Conversations that outgrow the context: their oldest turns go.

use super::Language;
use super::generation::Prompt;
use super::start::too_long;
use crate::Result;
use crate::chat::Conversation;
use crate::turns::Turns;
use serde_json::Value;
use std::ops::Range;

/// What templates write around a message, in tokens, about. Whether a prompt really fits is found out by making it.
const AROUND: usize = 8;

/// What is left of a conversation.
pub(super) struct Left {
    /// Its prompt.
    pub tokens: Vec<u32>,
    /// Messages that went.
    pub dropped: usize,
}

/// The prompt of as much of `conversation` as fits `room` tokens. Fails with `context_length_exceeded` where not even
/// the last turn does.
pub(super) async fn dropped(language: &Language, conversation: Conversation, room: usize) -> Result<Left> {
    let turns = &mut Turns::new();
    let whole = language.tokens(Prompt::Chat(conversation.clone()), turns).await?;
    if whole.len() <= room {
        return Ok(Left { tokens: whole, dropped: 0 });
    }
    let (head, parts) = parts(&conversation.messages);
    let mut sizes = Vec::with_capacity(conversation.messages.len());
    for message in &conversation.messages {
        sizes.push(AROUND + language.tokenizer.encode_in_turns(&text(message), false, turns).await?.len());
    }
    let size = |messages: &Range<usize>| sizes[messages.clone()].iter().sum();
    let parts_sizes: Vec<usize> = parts.iter().map(size).collect();
    // Fewer than all have not fitted.
    let first = window(room.saturating_sub(size(&(0..head))), &parts_sizes).max(1);
    let mut len = whole.len();
    for part in parts.iter().skip(first) {
        let mut conversation = conversation.clone();
        conversation.messages.drain(head..part.start);
        let tokens = language.tokens(Prompt::Chat(conversation), turns).await?;
        if tokens.len() <= room {
            return Ok(Left { tokens, dropped: part.start - head });
        }
        len = tokens.len();
    }
    Err(too_long(len, room + 1))
}

/// How many messages the system has said at the beginning; and the turns after them, each from one of the user's.
fn parts(messages: &[Value]) -> (usize, Vec<Range<usize>>) {
    let of = |index: usize, roles: &[&str]| {
        messages[index]["role"].as_str().is_some_and(|role| roles.contains(&role))
    };
    let head = (0..messages.len()).find(|&index| !of(index, &["system", "developer"]));
    let head = head.unwrap_or(messages.len());
    // Some users say several things in a row.
    let begins = |&index: &usize| index == head || of(index, &["user"]) && !of(index - 1, &["user"]);
    let starts: Vec<usize> = (head..messages.len()).filter(begins).collect();
    let ends = starts.iter().skip(1).copied().chain([messages.len()]);
    (head, starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect())
}

/// The first of those turns that stay, of turns of these sizes, had they been asked one after the other: whenever there is
/// no room for one more, the oldest go until what stays takes half of it. So it changes seldom as a conversation goes on.
fn window(room: usize, sizes: &[usize]) -> usize {
    let (mut first, mut sum) = (0, 0);
    for (index, size) in sizes.iter().enumerate() {
        sum += size;
        if sum <= room {
            continue;
        }
        while sum > room / 2 && first < index {
            sum -= sizes[first];
            first += 1;
        }
    }
    first
}

/// What of a message is in a prompt, about.
fn text(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) if message.get("tool_calls").is_none() => text.clone(),
        _ => message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message;

    #[test]
    fn turns_begin_with_what_the_user_says() {
        let roles = |roles: &[&str]| parts(&roles.iter().map(|role| message(role, "")).collect::<Vec<_>>());
        assert_eq!(roles(&["system", "user", "assistant", "user"]), (1, vec![1..3, 3..4]));
        assert_eq!(roles(&["user", "assistant", "tool", "assistant", "user"]), (0, vec![0..4, 4..5]));
        assert_eq!(roles(&["assistant", "user", "user", "assistant"]), (0, vec![0..1, 1..4]));
        assert_eq!(roles(&["system"]), (1, vec![]));
    }

    #[test]
    fn the_first_turn_that_stays_changes_seldom() {
        let sizes = [10; 40];
        let firsts: Vec<usize> = (1..=40).map(|len| window(100, &sizes[..len])).collect();
        assert!(firsts.iter().zip(1..).all(|(first, len)| 10 * (len - first) <= 100), "{firsts:?}");
        assert!(firsts.is_sorted());
        let changes = firsts.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes, 5, "{firsts:?}");
        // One that is too large by itself is the last to stay.
        assert_eq!(window(100, &[10, 10, 500]), 2);
        assert_eq!(window(100, &[500, 10]), 1);
    }
}
