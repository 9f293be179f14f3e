//! Every program's filters against every attempt: what each lets through, and which of the program's other layers stops
//! that. The matrix is device-blk's alone, whose filter stops all attempts; the other layers are the same for all programs
//! but for what [`Layers::of`] says of them.
//!
//! `filters.txt` has a line for each attempt that a filter lets through: the program and its stage, the kind and name of
//! the attempt, and the letters of what stops it alone. Nothing is written there where nothing does: so of the spawner,
//! which makes programs and their confinements, and has no other layer against that.

use std::collections::BTreeMap;

use sandbox_policies::{Program, Stage};

use super::matrix::{Outcome, Row, is_written_for, outcome, verdict};
use super::{Layer, Layers};
use crate::checked;

/// What is expected.
const EXPECTED: &str = include_str!("filters.txt");

/// How many attempts at most one layer of a confined program stops once its filter has let them through, as written. It may
/// only go down, but that each new device program that can be started by hand has one, as all have.
const ONE_LEFT: usize = 16;

/// Whose: all that serve, alone or spawned.
fn confinements() -> impl Iterator<Item = (Program, Stage)> {
    let stages = |program: Program| program.stages().iter().map(move |stage| (program, *stage));
    Program::ALL.into_iter().flat_map(stages).filter(|(_, stage)| *stage != Stage::Setup)
}

/// Tries all; `rows` is the matrix. Also says what it found, a line for each attempt that a filter lets through.
pub fn compare(rows: &[Row], abi: u8) -> Result<(), String> {
    let (expected, exact) = (expected()?, is_written_for(abi)?);
    let (mut found, mut one_left) = (0, 0);
    for (program, stage) in confinements() {
        let name = format!("{} {}", program.name(), stage.key());
        let mut let_through = 0;
        for (index, row) in rows.iter().enumerate() {
            let alone = outcome(program, stage, &Layers::that(|it| it == Layer::Seccomp), index)?.0;
            let wanted = expected.get(&(name.as_str(), row.attempt.row, row.attempt.name)).copied();
            let what = format!("{name}: {}: {}", row.attempt.row, row.attempt.name);
            if alone != Outcome::Open && alone != row.bare {
                verdict(
                    &format!("{what}: stopped by the filter"),
                    checked(wanted.is_none() || !exact, &wanted),
                );
                continue;
            }
            let stops = others(program, stage, row, index)?;
            println!("filter | {name} | {} | {} | {stops}", row.attempt.row, row.attempt.name);
            let same = if exact { wanted == Some(&stops) } else { wanted.is_some() };
            verdict(&format!("{what}: as written"), checked(same, &(&stops, wanted)));
            let_through += 1;
            one_left += usize::from(stops.len() <= 1 && stage != Stage::Spawner);
            if stops.len() > 1 {
                for left_out in Layer::ALL.into_iter().filter(|it| stops.contains(it.letter())) {
                    let without = Layers::of(program, stage).without(left_out);
                    let found = outcome(program, stage, &without, index)?.0;
                    verdict(
                        &format!("{what}: without {left_out:?}"),
                        checked(found != Outcome::Open, &found),
                    );
                }
            }
        }
        found += let_through;
        println!("measured: the filter of {name} lets {let_through} of {} attempts through", rows.len());
    }
    verdict("no line of nothing", checked(found == expected.len() || !exact, &(found, expected.len())));
    verdict("one layer left", checked(one_left <= ONE_LEFT, &one_left));
    Ok(())
}

/// Which of the program's other layers stop it alone, in the letters of the matrix.
fn others(program: Program, stage: Stage, row: &Row, index: usize) -> Result<String, String> {
    let all = Layers::of(program, stage).without(Layer::Seccomp);
    let mut stops = String::new();
    for layer in Layer::ALL.into_iter().filter(|layer| all.has(*layer)) {
        let alone = outcome(program, stage, &Layers::that(|it| it == layer), index)?.0;
        if alone != Outcome::Open && alone != row.bare {
            stops.push(layer.letter());
        }
    }
    stops.extend(row.stops.chars().filter(|letter| "eu".contains(*letter)));
    Ok(stops)
}

type Attempts = BTreeMap<(&'static str, &'static str, &'static str), &'static str>;

fn expected() -> Result<Attempts, String> {
    EXPECTED
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| match line.split('|').map(str::trim).collect::<Vec<_>>().as_slice() {
            [program, row, name, stops] => Ok(((*program, *row, *name), *stops)),
            _ => Err(format!("filters.txt: what is {line}?")),
        })
        .collect()
}
