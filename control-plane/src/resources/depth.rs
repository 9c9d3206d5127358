//! How deep a YAML text nests, looked at before it is read.
//!
//! The reader goes through all open brackets at each word, so that what it does grows with the square of the depth, and
//! its own limit is asked only when all of the text has been taken in. So brackets and the dashes of nested lists are
//! counted here first, in one look at each byte.

/// Deeper than this nothing is read; the deepest field of any document is at a fifth of it.
pub(super) const MOST: usize = 64;

/// The first line, counted from 1, on which `text` nests deeper than [`MOST`].
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let mut scan = Scan { open: 0, inside: Inside::Nothing };
    text.lines().position(|line| !scan.take(line.as_bytes())).map(|index| index + 1)
}

/// What the next character belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// Whatever begins here.
    Nothing,
    /// Text without quotes, in which quotes mean nothing.
    Plain,
    Single,
    Double,
}

struct Scan {
    /// Brackets.
    open: usize,
    inside: Inside,
}

impl Scan {
    /// Whether the text is still flat enough with this line.
    fn take(&mut self, line: &[u8]) -> bool {
        if self.open == 0 {
            self.inside = Inside::Nothing;
        }
        let mut dashes = 0;
        let mut at = 0;
        while let Some(&byte) = line.get(at) {
            let (before, next) = (at.checked_sub(1).map(|before| line[before]), line.get(at + 1).copied());
            at += 1;
            self.inside = match (self.inside, byte) {
                (Inside::Double, b'\\') => {
                    at += 1;
                    Inside::Double
                }
                (Inside::Single, b'\'') if next == Some(b'\'') => {
                    at += 1;
                    Inside::Single
                }
                (Inside::Double, b'"') | (Inside::Single, b'\'') => Inside::Nothing,
                (quoted @ (Inside::Double | Inside::Single), _) => quoted,
                (_, b'#') if before.is_none_or(is_blank) => break,
                (Inside::Nothing, b'"') => Inside::Double,
                (Inside::Nothing, b'\'') => Inside::Single,
                (inside, b'[' | b'{') if inside == Inside::Nothing || self.open > 0 => {
                    self.open += 1;
                    Inside::Nothing
                }
                (_, b']' | b'}') if self.open > 0 => {
                    self.open -= 1;
                    Inside::Nothing
                }
                (_, b',') if self.open > 0 => Inside::Nothing,
                (_, b':') if next.is_none_or(is_blank) => Inside::Nothing,
                (Inside::Nothing, b':') if self.open > 0 => Inside::Nothing,
                (Inside::Nothing, b'-' | b'?') if next.is_none_or(is_blank) => {
                    dashes += 1;
                    Inside::Nothing
                }
                // An anchor or a tag, before what it is about.
                (Inside::Nothing, b'&' | b'!') => {
                    let ends = |byte: &u8| is_blank(*byte) || self.open > 0 && b",[]{}".contains(byte);
                    at += line[at..].iter().position(ends).unwrap_or(line.len() - at);
                    Inside::Nothing
                }
                (Inside::Nothing, byte) if is_blank(byte) => Inside::Nothing,
                _ => Inside::Plain,
            };
            if self.open > MOST || dashes > MOST {
                return false;
            }
        }
        true
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nests_without_end_is_found() {
        for beginning in
            ["[", "{", "{a: ", "{\"a\":", "{\"}\":", "{'}': ", "- ", "? ", "- - ", "[\n", "&a [", "!t ["]
        {
            assert_eq!(too_deep(&beginning.repeat(10)), None, "{beginning:?}");
            assert!(too_deep(&beginning.repeat(100)).is_some(), "{beginning:?}");
            let later = format!("a: don't\nb: {}", beginning.repeat(100));
            assert!(too_deep(&later).is_some_and(|line| line > 1), "{beginning:?}");
        }
    }

    #[test]
    fn what_is_text_or_side_by_side_is_not_deep() {
        for line in [
            "- {name: \"x{\", value: 'it''s [', path: {type: PathPrefix}}\n",
            "a[0: b{\n",
            "# [{[{\n",
            "a: \"\\\"[\"\n",
            "- [a, b] # {\n",
            "url: http://[::1]:80/\n",
            "a: {\n  b: [],\n}\n",
        ] {
            assert_eq!(too_deep(&line.repeat(200)), None, "{line:?}");
        }
    }
}
