//! What a guest's kernel may complain of: nothing, but for what the machine cannot help.

use crate::{Ended, Result};

/// Lines that come from the host's processor and not from the machine, by a part of each, with why.
const NOT_OURS: [(&str, &str); 2] = [
    // The processor is vulnerable and its microcode, which no monitor can supply, is not new enough.
    ("Speculative Return Stack Overflow: ", "the host's microcode"),
    // Hyper-threads and a mitigation that needs them off: the host's processor again.
    ("/admin-guide/hw-vuln/", "the host's processor"),
];

/// Asserts that the kernel's log has no warning, or worse, that the machine gave cause for.
pub fn none_of_ours(ended: &Ended) -> Result<()> {
    let ours: Vec<&str> = ended
        .warnings()?
        .into_iter()
        .filter(|line| NOT_OURS.iter().all(|(part, _)| !line.contains(part)))
        .collect();
    assert!(ours.is_empty(), "the guest's kernel complains:\n{}", ours.join("\n"));
    Ok(())
}
