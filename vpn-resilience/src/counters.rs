//! Makes the structs that say how often what happened.

/// A struct of counters, each a plain `u64` with a stable name.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)+
        }

        #[allow(dead_code, reason = "not every part starts as a constant")]
        impl $name {
            pub(crate) const ZERO: Self = Self { $($field: 0,)+ };

            /// Every counter with its name, in the order of the fields. Names are those of metrics:
            /// lower case with underscores, stable.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field)),+].into_iter()
            }

            /// Adds the counts of another of its kind, for a sum over many.
            pub const fn merge(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
            }
        }
    };
}
pub(crate) use counters;

#[cfg(test)]
mod tests {
    use crate::breaker::Transitions;

    #[test]
    fn names_are_those_of_the_fields_and_sums_are_sums() {
        let mut sum = Transitions::ZERO;
        for (opened, closed) in [(1, 2), (4, 0)] {
            sum.merge(&Transitions {
                opened,
                closed,
                ..Transitions::ZERO
            });
        }
        let named = [("opened", 5), ("half_opened", 0), ("closed", 2)];
        assert_eq!(sum.iter().collect::<Vec<_>>(), named);
    }
}
