//! Rules, what has used them, and the reasons why some were not used: compared, so that a rule that nobody needs is found and
//! a reason that nothing needs, too.

use std::collections::BTreeSet;

use sandbox_policies::policy::{self, Rule};
use sandbox_policies::{Program, Stage};

/// A rule, where it stands, whether it was used there, and whether there is an excuse if it was not.
pub struct Seen {
    pub program: Program,
    pub stage: Stage,
    pub rule: &'static Rule,
    pub used: bool,
    pub excused: bool,
}

impl Seen {
    /// As the file of excuses has it.
    fn words(&self) -> String {
        let meanings: Vec<&str> = self.rule.conditions.iter().map(|it| it.meaning).collect();
        let meanings =
            if meanings.is_empty() { String::new() } else { format!(" ({})", meanings.join("; ")) };
        format!("{}.{} {}{meanings}", self.program.name(), self.stage.key(), self.rule.call)
    }

    /// Whether it is the same rule, wherever it stands.
    fn is_like(&self, other: &Seen) -> bool {
        let conditions = |rule: &Rule| -> Vec<_> {
            rule.conditions.iter().map(|it| (it.argument, it.wide, it.operator, it.value)).collect()
        };
        self.rule.call == other.rule.call
            && (conditions(self.rule) == conditions(other.rule) || self.rule.conditions.is_empty())
    }

    /// Whether it takes this rule of an earlier filter.
    fn takes(&self, earlier: &Seen) -> bool {
        let device = !matches!(self.program, Program::Launcher | Program::Core);
        let stacked = match (earlier.program, earlier.stage) {
            (Program::Launcher, Stage::Spawner) => device && self.stage != Stage::StandAlone,
            (program, Stage::Setup) => {
                program == self.program && ![Stage::Setup, Stage::StandAlone].contains(&self.stage)
            }
            _ => false,
        };
        stacked && earlier.is_like(self)
    }
}

/// All rules; `used` says each that allowed something: program, stage and number.
pub fn rules(used: &BTreeSet<String>) -> Vec<Seen> {
    let mut all = Vec::new();
    for program in Program::ALL {
        for stage in program.stages() {
            let rules = policy::list(program, *stage).expect("a list of each stage").rules;
            all.extend(rules.iter().enumerate().map(|(number, rule)| Seen {
                program,
                stage: *stage,
                rule,
                used: used.contains(&format!("{} {} {number}", program.name(), stage.key())),
                excused: false,
            }));
        }
    }
    all
}

/// What does not agree: rules that are neither used nor excused, and excuses without a rule that needs one.
pub fn wrong(mut rules: Vec<Seen>, excuses: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in excuses.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(excuse) = Excuse::read(line) else {
            wrong.push(format!("{line}: neither never nor sometimes, a place and a call"));
            continue;
        };
        let mut needed = false;
        for seen in rules.iter_mut().filter(|seen| excuse.is_for(&seen.words())) {
            needed = needed || excuse.sometimes || !seen.used;
            seen.excused = true;
        }
        if !needed {
            wrong.push(format!("{line}: there is no such rule, or it is used"));
        }
    }
    let needed = |rule: &Seen| rule.used || rule.excused;
    let idle = rules
        .iter()
        .filter(|rule| !needed(rule) && !rules.iter().any(|later| needed(later) && later.takes(rule)));
    wrong.extend(idle.map(|rule| format!("{}: nobody needs it; remove it, or excuse it", rule.words())));
    wrong
}

/// A line of the file.
struct Excuse<'a> {
    /// It may be used all the same.
    sometimes: bool,
    /// Program and stage, and the call; a star in them is anything.
    place: &'a str,
    call: &'a str,
}

impl<'a> Excuse<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let (place, call) = rest.split_once(' ')?;
        ["never", "sometimes"].contains(&word).then_some(Self { sometimes: word == "sometimes", place, call })
    }

    fn is_for(&self, rule: &str) -> bool {
        let matches = |pattern: &str, text: &str| match pattern.split_once('*') {
            None => pattern == text,
            Some((begin, end)) => text.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end)),
        };
        rule.split_once(' ')
            .is_some_and(|(place, call)| matches(self.place, place) && matches(self.call, call))
    }
}
