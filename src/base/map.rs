//! Maps and sets that iterate in insertion order, so that a run can be replayed from its seed
//! although the hasher is seeded per process against flooding by chosen keys.

/// A map whose iteration order depends on the calls made, never on hashes.
pub type Map<K, V> = indexmap::IndexMap<K, V, ahash::RandomState>;

/// A set whose iteration order depends on the calls made, never on hashes.
pub type Set<K> = indexmap::IndexSet<K, ahash::RandomState>;

/// Another form of a key that can be looked up.
pub use indexmap::Equivalent;
/// A place in a [`Map`], taken or not.
pub use indexmap::map::Entry;
