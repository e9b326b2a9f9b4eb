//! Refs that lead to what the archive has not: git believes that whoever has a commit has its history.

use crate::archive::Archive;
use crate::ground::{Fixture, fixture};
use crate::made::{loose, loose_path};
use crate::trial::{Case, Rule, try_all};

/// What is nowhere.
fn absent() -> String {
    "1".repeat(40)
}

/// The archive with a commit of HEAD's tree and these parents, and its name.
fn with_commit(archive: Archive, text: &str, parents: &[String]) -> (Archive, String) {
    let tree = fixture().ask(&["rev-parse", "HEAD^{tree}"]);
    let parents: String = parents.iter().map(|id| format!("parent {id}\n")).collect();
    let text =
        format!("tree {tree}\n{parents}author a <a> 1 +0000\ncommitter a <a> 1 +0000\n\n{text}\n");
    let (name, file) = loose("commit", text.as_bytes());
    (archive.set(&loose_path(&name), file), name)
}

fn at(archive: Archive, name: &str, id: &str) -> Archive {
    archive.set(&format!(".git/{name}"), format!("{id}\n"))
}

type Make = fn(&Fixture) -> Archive;

#[test]
fn what_refs_lead_to_is_there_or_the_archive_is_refused() {
    let cases: [(&str, Rule, Make); 10] = [
        ("an author that is none", Rule::Taken, |f| {
            let tree = f.ask(&["rev-parse", "HEAD^{tree}"]);
            let text = format!("tree {tree}\nauthor a 1 +0000\ncommitter a <a> 1 +0000\n\nx\n");
            let (old, file) = loose("commit", text.as_bytes());
            let archive = f.good.clone().set(&loose_path(&old), file);
            let (archive, id) = with_commit(archive, "x", &[old]);
            at(archive, "refs/heads/main", &id)
        }),
        ("HEAD at a file", Rule::Refused, |f| {
            let id = f.ask(&["rev-parse", "HEAD:a.txt"]);
            at(f.good.clone(), "refs/heads/main", &id)
        }),
        ("a parent of HEAD", Rule::Refused, |f| {
            let (archive, id) = with_commit(f.good.clone(), "x", &[absent()]);
            at(archive, "refs/heads/main", &id)
        }),
        ("one further down", Rule::Refused, |f| {
            let (mut archive, mut id) = with_commit(f.good.clone(), "x", &[absent()]);
            for number in 0..100 {
                (archive, id) = with_commit(archive, &number.to_string(), &[id]);
            }
            at(archive, "refs/heads/main", &id)
        }),
        ("one behind which nothing is said to be", Rule::Taken, |f| {
            let (archive, id) = with_commit(f.good.clone(), "x", &[absent()]);
            at(at(archive, "refs/heads/main", &id), "shallow", &id)
        }),
        ("a parent of another branch", Rule::Refused, |f| {
            let (archive, id) = with_commit(f.good.clone(), "x", &[absent()]);
            at(archive, "refs/remotes/origin/x", &id)
        }),
        ("another branch", Rule::Refused, |f| {
            at(f.good.clone(), "refs/remotes/origin/x", &absent())
        }),
        ("a tag", Rule::Refused, |f| {
            at(f.good.clone(), "refs/tags/x", &absent())
        }),
        ("what a tag names", Rule::Refused, |f| {
            let text = format!(
                "object {}\ntype commit\ntag x\ntagger a <a> 1 +0000\n\nx\n",
                absent()
            );
            let (name, file) = loose("tag", text.as_bytes());
            at(
                f.good.clone().set(&loose_path(&name), file),
                "refs/tags/x",
                &name,
            )
        }),
        ("a branch that is a file", Rule::Taken, |f| {
            at(
                f.good.clone(),
                "refs/remotes/origin/x",
                &f.ask(&["rev-parse", "HEAD:a.txt"]),
            )
        }),
    ];
    let case = |(name, rule, make): (&str, Rule, Make)| {
        Case::new(name, rule, move |fixture, _| make(fixture))
    };
    let cases: Vec<Case> = cases.map(case).into();
    try_all(&cases);
}
