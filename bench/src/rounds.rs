//! Interleaved rounds: ours, bare, ours, bare. What else the machine does meanwhile falls on both.

use anyhow::Context;

/// Something of ours that is measured beside something bare.
pub trait Row {
    /// What a round of either side brings back.
    type Figures;

    /// One round of ours.
    async fn ours(&mut self) -> anyhow::Result<Self::Figures>;

    /// One round of the bare thing, with the same load on the same server.
    async fn bare(&mut self) -> anyhow::Result<Self::Figures>;
}

/// The rounds of both sides, in order.
pub struct Rounds<T> {
    /// Ours.
    pub ours: Vec<T>,
    /// The baseline's.
    pub bare: Vec<T>,
}

/// Measures `count` rounds of each side, one after the other; says on standard error how far it is.
pub async fn interleave<R: Row>(row: &mut R, name: &str, count: usize) -> anyhow::Result<Rounds<R::Figures>> {
    let mut rounds = Rounds { ours: Vec::new(), bare: Vec::new() };
    for round in 1..=count {
        eprintln!("{name}: round {round} of {count}, ours");
        rounds.ours.push(row.ours().await.with_context(|| format!("{name}, round {round}, ours"))?);
        eprintln!("{name}: round {round} of {count}, bare");
        rounds.bare.push(row.bare().await.with_context(|| format!("{name}, round {round}, bare"))?);
    }
    Ok(rounds)
}

impl<T> Rounds<T> {
    /// One figure of each round of both sides.
    pub fn figures(&self, pick: impl Fn(&T) -> f64) -> (Vec<f64>, Vec<f64>) {
        (self.ours.iter().map(&pick).collect(), self.bare.iter().map(&pick).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Noted(Vec<&'static str>);

    impl Row for Noted {
        type Figures = f64;

        async fn ours(&mut self) -> anyhow::Result<f64> {
            self.0.push("ours");
            Ok(self.0.len() as f64)
        }

        async fn bare(&mut self) -> anyhow::Result<f64> {
            self.0.push("bare");
            Ok(self.0.len() as f64)
        }
    }

    #[tokio::test]
    async fn rounds_alternate() {
        let mut row = Noted(Vec::new());
        let rounds = interleave(&mut row, "noted", 2).await.unwrap();
        assert_eq!(row.0, ["ours", "bare", "ours", "bare"]);
        assert_eq!(rounds.figures(|figure| *figure), (vec![1.0, 3.0], vec![2.0, 4.0]));
    }
}
