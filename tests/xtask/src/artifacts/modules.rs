//! Kernel modules and what they need, in the order in which they must be inserted.
//!
//! The package carries no `modules.dep` (its installation script makes it), so the dependencies come
//! from where depmod takes them: the `depends=` string in each module's `.modinfo` section.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, Tried};

/// The modules below one kernel release's folder.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Finds every module below `folder`, which is `lib/modules/RELEASE`.
    pub fn below(folder: &Path) -> Outcome<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).tried(|| format!("cannot list {}", folder.display()))?;
            for entry in entries {
                let path = entry.tried(|| format!("cannot list {}", folder.display()))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko") {
                    let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
                    files.insert(stem, path);
                }
            }
        }
        Ok(Self { files })
    }

    /// `wanted` and all that they depend on, each before those that need it.
    pub fn in_order(&self, wanted: &[&str]) -> Outcome<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        for name in wanted {
            self.append(name, &mut order, 0)?;
        }
        Ok(order)
    }

    fn append(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>, depth: u8) -> Outcome<()> {
        if order.iter().any(|(earlier, _)| earlier == name) {
            return Ok(());
        }
        if depth > 16 {
            return Err(Failure::new(format!("kernel module {name} seems to depend on itself")));
        }
        let path = self.files.get(name).ok_or_else(|| {
            Failure::new(format!("the kernel package has no module {name}; was it built in, or renamed?"))
        })?;
        let module = std::fs::read(path).tried(|| format!("cannot read {}", path.display()))?;
        for needed in depends(&module) {
            self.append(&needed, order, depth.saturating_add(1))?;
        }
        order.push((name.to_owned(), module));
        Ok(())
    }
}

/// The modules named in `module`'s `depends=` string.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module.iter().skip(at.saturating_add(KEY.len())).take_while(|byte| **byte != 0);
    let value: Vec<u8> = value.copied().collect();
    String::from_utf8_lossy(&value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(list: &[(&str, &str)]) -> (tempfile::TempDir, Modules) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("kernel")).unwrap();
        for (name, depends) in list {
            let content = format!("license=GPL\0depends={depends}\0name={name}\0");
            std::fs::write(folder.path().join("kernel").join(format!("{name}.ko")), content).unwrap();
        }
        let modules = Modules::below(folder.path()).unwrap();
        (folder, modules)
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let (_folder, modules) =
            modules(&[("virtio_pci", "virtio,virtio-ring"), ("virtio-ring", ""), ("virtio", "virtio-ring")]);
        let order = modules.in_order(&["virtio_pci", "virtio"]).unwrap();
        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_pci"]);
    }

    #[test]
    fn an_unknown_module_and_a_circle_are_refused() {
        let (_folder, modules) = modules(&[("a", "b"), ("b", "a")]);
        assert!(modules.in_order(&["nothing"]).is_err());
        assert!(modules.in_order(&["a"]).is_err());
    }
}
