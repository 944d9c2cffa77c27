//! Lists of texts packed into one text. Each item is its length, as digits of base 64, and then the
//! text.
//!
//! Each digit is one ASCII character, so that the whole is valid UTF-8 and is sliced without a
//! check of its bytes. The format does not depend on metadata.

/// Bits per digit of a number. The lowest digit comes first; all but the last carry [`MORE`].
const DIGIT_BITS: u32 = 6;
const MORE: u8 = 1 << DIGIT_BITS;

/// One item of a packed list: a text, and its marked positions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Item<'a> {
    pub(super) text: &'a str,
    /// Marked positions, packed, in ascending order.
    pub(super) marks: &'a str,
}

impl<'a> Item<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, marks: "" }
    }

    pub(super) fn marks(self) -> impl Iterator<Item = usize> {
        let mut marks = self.marks;
        std::iter::from_fn(move || take_number(&mut marks))
    }

    /// Returns the number of bytes that [`push_to`](Self::push_to) appends.
    fn packed_len(self) -> usize {
        let marks = if self.marks.is_empty() {
            0
        } else {
            number_len(self.marks.len()) + self.marks.len()
        };
        number_len(self.text.len() << 1) + marks + self.text.len()
    }

    /// Appends the item to a packed list. The lowest bit of the length is 1 if the item has marks;
    /// the length of the marks then follows.
    pub(super) fn push_to(self, list: &mut String) {
        let is_marked = !self.marks.is_empty();
        push_number(list, self.text.len() << 1 | usize::from(is_marked));
        if is_marked {
            push_number(list, self.marks.len());
            list.push_str(self.marks);
        }
        list.push_str(self.text);
    }
}

/// Iterator over the items of a packed list.
#[derive(Clone, Debug, Default)]
pub(super) struct Items<'a>(pub(super) &'a str);

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let head = take_number(&mut self.0)?;
        let marks_len = if head & 1 == 1 {
            take_number(&mut self.0)?
        } else {
            0
        };
        let (marks, after) = self.0.split_at(marks_len);
        let (text, rest) = after.split_at(head >> 1);
        self.0 = rest;
        Some(Item { text, marks })
    }
}

/// Packs items into one text.
pub(super) fn pack<'a>(items: impl Iterator<Item = Item<'a>> + Clone) -> Box<str> {
    let mut list = String::with_capacity(items.clone().map(Item::packed_len).sum());
    items.for_each(|item| item.push_to(&mut list));
    list.into_boxed_str()
}

/// Packs numbers.
pub(super) fn pack_numbers(numbers: impl Iterator<Item = usize>) -> String {
    let mut list = String::new();
    numbers.for_each(|number| push_number(&mut list, number));
    list
}

fn number_len(number: usize) -> usize {
    number
        .checked_ilog2()
        .map_or(1, |highest| (highest / DIGIT_BITS + 1) as usize)
}

fn push_number(list: &mut String, mut number: usize) {
    let mask = usize::from(MORE - 1);
    while number > mask {
        list.push(char::from((number & mask) as u8 | MORE));
        number >>= DIGIT_BITS;
    }
    list.push(char::from(number as u8));
}

fn take_number(list: &mut &str) -> Option<usize> {
    let last = list.bytes().position(|digit| digit & MORE == 0)?;
    let (digits, rest) = list.split_at(last + 1);
    *list = rest;
    Some(digits.bytes().rev().fold(0, |number, digit| {
        number << DIGIT_BITS | usize::from(digit & (MORE - 1))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_any_length_come_back() {
        let texts: Vec<_> = [0, 1, 31, 32, 2_047, 2_048, 131_072, 140_000]
            .map(|length| "é".repeat(length))
            .into();
        let marks = pack_numbers([0, 63, 64, 4_095, 4_096, usize::MAX].into_iter());
        let items = texts.iter().enumerate().map(|(at, text)| Item {
            text,
            marks: if at % 2 == 0 { "" } else { &marks },
        });
        let list = pack(items.clone());
        assert_eq!(list.len(), items.map(Item::packed_len).sum::<usize>());
        let found: Vec<_> = Items(&list).collect();
        assert_eq!(found.len(), texts.len());
        for (at, (item, text)) in found.into_iter().zip(&texts).enumerate() {
            let expected: &[usize] = if at % 2 == 0 {
                &[]
            } else {
                &[0, 63, 64, 4_095, 4_096, usize::MAX]
            };
            assert_eq!(
                (item.text, item.marks().collect::<Vec<_>>().as_slice()),
                (text.as_str(), expected)
            );
        }
    }
}
