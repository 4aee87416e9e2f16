//! Texts that are kept once, and their numbers.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Every text once: services, group values, units.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: Vec<Box<str>>,
    index: HashTable<NameId>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NameId(u32);

impl NameId {
    /// No name at all, which the empty name is not.
    pub(super) const NONE: Self = Self(u32::MAX);
}

impl Names {
    pub(super) fn get(&self, text: &str) -> Option<NameId> {
        self.index.find(self.hasher.hash_one(text), |&id| self.text(id) == text).copied()
    }

    pub(super) fn text(&self, id: NameId) -> &str {
        &self.texts[id.0 as usize]
    }

    /// The text's number, which it gets where it has none yet.
    pub(super) fn intern(&mut self, text: &str) -> NameId {
        if let Some(id) = self.get(text) {
            return id;
        }
        let id = NameId(u32::try_from(self.texts.len()).expect("names fit in memory"));
        self.texts.push(text.into());
        let (texts, hasher) = (&self.texts, &self.hasher);
        self.index.insert_unique(hasher.hash_one(text), id, |id| hasher.hash_one(&*texts[id.0 as usize]));
        id
    }
}
