//! Chance that can be repeated.

/// Numbers that look as if they were drawn, the same ones for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.roll()) * end as u128;
        // The product is below 2^64 times the end.
        usize::try_from(wide >> 64).unwrap_or_default()
    }
}

/// Spreads the bits of a number over all of its bits. The same everywhere, for ever: nodes compare what comes of it.
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers() {
        let (mut one, mut same) = (Dice::new(7), Dice::new(7));
        let rolls: Vec<u64> = (0..100).map(|_| one.roll()).collect();
        assert!(rolls.iter().all(|roll| *roll == same.roll()));
        // The first of SplitMix64's numbers for the seed 1234567, which its author has published.
        assert_eq!(Dice::new(1_234_567).roll(), 6_457_827_717_110_365_317);
    }

    #[test]
    fn every_number_below_the_end_comes() {
        let mut dice = Dice::new(1);
        let mut counts = [0; 5];
        for _ in 0..1000 {
            counts[dice.below(5)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
        assert_eq!(dice.below(0), 0);
    }
}
