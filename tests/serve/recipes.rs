//! What the documents tell to type, typed: certificates, files, who asks. A word that is wrong there is found here.

use super::support::git;
use super::support::issuer::{Issuer, Signer};
use super::support::lab::Lab;
use super::support::server::Server;
use super::support::tokens::{self, Token};
use super::{new_lab, small_lab};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tarpon::config::{IssuerRule, issuer_rule};

const TARPON: &str = env!("CARGO_BIN_EXE_tarpon");

/// The blocks of this kind of a page, in order.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let begin = format!("\n```{kind}\n");
    let parts = text.split(&begin).skip(1);
    let blocks = parts.map(|part| part.split("\n```").next().unwrap_or_default());
    blocks.map(str::to_owned).collect()
}

/// The one of them that has this in it.
fn block(page: &str, kind: &str, has: &str) -> String {
    let mut all = blocks(page, kind).into_iter();
    let found = all.find(|block| block.contains(has));
    found.unwrap_or_else(|| panic!("{page} has no block with {has}"))
}

/// Somebody at a terminal, in a directory that is his home.
struct Reader {
    lab: Lab,
    home: PathBuf,
}

impl Reader {
    fn new(lab: Lab) -> Reader {
        let home = lab.scratch("home");
        fs::create_dir(&home).unwrap_or_else(|e| panic!("{}: {e}", home.display()));
        Reader { lab, home }
    }

    fn shell(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new("sh");
        git::isolate(&mut command);
        let bin = Path::new(TARPON).parent().unwrap_or(Path::new("/"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-euc", script]).current_dir(&self.home);
        command
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", &self.home)
            .env_remove("GIT_CONFIG_GLOBAL")
            // Of whoever runs the tests.
            .env_remove("GIT_SSL_CAINFO")
            .env_remove("SSL_CERT_FILE")
            .env_remove("CURL_CA_BUNDLE")
            .envs(variables.iter().copied());
        command.output().unwrap_or_else(|e| panic!("sh: {e}"))
    }

    /// Types a block as it stands, but for what stands for something else in it.
    fn types(&self, block: &str, stands_for: &[(&str, &str)], variables: &[(&str, &str)]) {
        let script = filled(block, stands_for);
        let out = self.shell(&script, variables);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{script}\n{said}");
    }

    /// A server with the arguments that a block gives to `serve`, but for those that say what it serves and where.
    fn serves(&self, block: &str, stands_for: &[(&str, &str)], more: &[&str]) -> Server {
        let line = block.replace("\\\n", " ");
        let (_, line) = line.split_once("tarpon serve ").expect("serve");
        let line = filled(line.lines().next().unwrap_or_default(), stands_for);
        let mut words = line.split_whitespace().map(|word| word.trim_matches('\''));
        let mut settings = self.lab.settings().with(more);
        while let Some(word) = words.next() {
            match word {
                "--listen" | "--upstream" => drop(words.next()),
                "#" => break,
                word => settings.arguments.push(word.to_owned()),
            }
        }
        let home = self.home.display().to_string();
        settings.launcher = vec!["env".into(), "-C".into(), home];
        settings.start()
    }

    fn expect_clone(&self, name: &str) {
        let tip = git::text(&self.lab.upstream("small"), &["rev-parse", "main"]);
        let found = git::text(&self.home.join(name), &["rev-parse", "HEAD"]);
        assert_eq!(found, tip, "{name}");
    }
}

fn filled(text: &str, stands_for: &[(&str, &str)]) -> String {
    let put = |text: String, (word, by): &(&str, &str)| text.replace(word, by);
    stands_for.iter().fold(text.to_owned(), put)
}

/// The recipes for certificates, the server's and those of clients, for a name and for an address; what is shown by
/// curl, git and restore; a token in `.netrc`.
#[test]
fn certificates_and_tokens_as_the_documents_have_them() {
    let page = "docs/tls.md";
    let reader = Reader::new(small_lab());
    let made = block(page, "sh", "subjectAltName=DNS:SERVER");
    let (makes, _) = made.split_once("tarpon serve").expect("both");
    let by_address = [("DNS:SERVER", "IP:127.0.0.1"), ("SERVER", "127.0.0.1")];
    reader.types(makes, &by_address, &[]);
    reader.types(
        "mv cert.pem address.pem; mv key.pem address-key.pem",
        &[],
        &[],
    );
    reader.types(makes, &[("SERVER", "localhost")], &[]);
    let server = reader.serves(
        &made,
        &[],
        &["--tls-cert", "address.pem", "--tls-key", "address-key.pem"],
    );
    let port = server.address().port().to_string();
    let place = format!("localhost:{port}");
    let there = [("SERVER:8443", &*place), ("HOST/PATH", "test/small")];
    reader.types(&block(page, "sh", "/_readiness"), &there, &[]);
    reader.expect_clone("cloned");
    reader.expect_clone("restored");
    let address = format!(
        "tarpon restore test/small by-address --server https://127.0.0.1:{port} --cacert address.pem"
    );
    reader.types(&address, &[], &[]);
    drop(server);

    reader.types(&block(page, "sh", "-CA ca.pem"), &[], &[]);
    let token = Token::new(TARPON, "farm", &[]);
    tokens::write(&reader.home.join("tokens"), &[&token]);
    let serve = block(page, "sh", "--tls-client-san");
    let server = reader.serves(&serve, &[("HOST", "test")], &["--tokens", "tokens"]);
    let place = format!("localhost:{}", server.address().port());
    let there = [("SERVER:8443", &*place), ("HOST/PATH", "test/small")];
    // Git has a port's settings, and this server another one.
    let clients = block(page, "sh", "/_readiness");
    let believes = clients.lines().find(|line| line.contains("sslCAInfo"));
    reader.types(believes.expect("git's setting"), &there, &[]);
    let none = format!("tarpon restore test/small none --server https://{place} --cacert cert.pem");
    reader.types(&block(page, "sh", "--cert w1.pem"), &there, &[]);
    reader.expect_clone("shown");
    reader.expect_clone("shown-by-git");
    refused_in_words(&reader, &none);
    drop(server);
    revoked_in_words(&reader, &serve);
    let server = reader.serves(&serve, &[("HOST", "test")], &["--tokens", "tokens"]);
    let place = format!("localhost:{}", server.address().port());
    // Without a certificate, and with a token in the place that all look at.
    reader.types("rm .gitconfig", &[], &[]);
    let machine = [
        ("machine SERVER", "machine localhost"),
        ("tarpon_…", &*token.token),
        ("SERVER", &*place),
        ("git.example.org/team/app", "test/small"),
        ("DIR", "by-netrc"),
    ];
    let believes = [
        ("SSL_CERT_FILE", "cert.pem"),
        ("GIT_SSL_CAINFO", "cert.pem"),
    ];
    reader.types(&block("README.md", "sh", "~/.netrc"), &machine, &believes);
    reader.expect_clone("small");
    reader.expect_clone("by-netrc");
}

/// The list of what is revoked, as the documents make it.
fn revoked_in_words(reader: &Reader, serve: &str) {
    reader.types(&block("docs/tls.md", "sh", "-gencrl"), &[], &[]);
    let list = ["--tokens", "tokens", "--tls-client-crl", "crl.pem"];
    let server = reader.serves(serve, &[("HOST", "test")], &list);
    let port = server.address().port();
    let revoked = format!(
        "tarpon restore test/small none --server https://localhost:{port} --cacert cert.pem \
         --cert w1.pem --key w1-key.pem"
    );
    let out = reader.shell(&revoked, &[]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("revoked"), "{said}");
}

/// Certificates that are refused, each for a reason that is said.
fn refused_in_words(reader: &Reader, restore: &str) {
    let out = reader.shell(restore, &[]);
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr);
    for way in [
        "401: who are you? Show a client certificate, or send a token",
        "; --cert and --key show",
    ] {
        assert!(said.contains(way), "{said}");
    }
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout x-key.pem";
    let own = format!("openssl req -x509 {key} -extensions usr_cert -addext subjectAltName=DNS:w1");
    let ours = "-CA ca.pem -CAkey ca-key.pem";
    let makes = |script: &str| reader.types(script, &[], &[]);
    let refused = |code: i32, says: &str| {
        let out = reader.shell(&format!("{restore} --cert x.pem --key x-key.pem"), &[]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    };
    makes(&format!("{own}.elsewhere.example {ours} -out x.pem"));
    refused(3, "lets in no name that the certificate of --cert has");
    makes(&format!("{own}.ci.example.org -out x.pem"));
    refused(
        3,
        "believes no authority that has signed the certificate of --cert",
    );
    makes("cp w1.pem x.pem");
    refused(1, "the key is that of another certificate");
    makes(&format!(
        "openssl req -new {key} | openssl x509 -req {ours} -CAcreateserial -out x.pem"
    ));
    let made = reader.shell("openssl x509 -in x.pem -noout -text", &[]);
    // Newer ones make none of version 1.
    if String::from_utf8_lossy(&made.stdout).contains("Version: 1 ") {
        refused(1, "x.pem: it is of version 1");
    }
}

/// The file and the unit of the documents are such as a start would take.
#[test]
fn the_file_and_the_unit_of_the_documents_are_sound() {
    let reader = Reader::new(new_lab());
    let made = block("docs/tls.md", "sh", "subjectAltName=DNS:SERVER");
    let (makes, _) = made.split_once("tarpon serve").expect("both");
    reader.types(makes, &[("SERVER", "localhost")], &[]);
    let token = Token::new(TARPON, "farm", &[]);
    tokens::write(&reader.home.join("tokens"), &[&token]);
    reader.types("umask 077; echo u:t > git.example.org", &[], &[]);
    let home = reader.home.display().to_string();
    let upstreams = reader.lab.upstreams().display().to_string();
    let here = [
        ("/etc/tarpon", &*home),
        ("/run/tarpon", &*home),
        ("/var/lib/tarpon", &*format!("{home}/state")),
        ("/srv/git", &*upstreams),
        ("/usr/local/bin/tarpon", TARPON),
    ];
    let page = "docs/operating.md";
    let file = filled(&block(page, "toml", "state"), &here);
    fs::write(reader.home.join("tarpon.toml"), &file).unwrap_or_else(|e| panic!("{e}"));
    let unit = block(page, "ini", "[Service]");
    let command = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key));
        filled(line.unwrap_or_else(|| panic!("{key}")), &here)
    };
    let (start, check) = (command("ExecStart="), command("ExecReload="));
    assert_eq!(start.replace(" serve ", " check "), check);
    let out = reader.shell(&check, &[]);
    let said = [&out.stdout[..], &out.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(out.status.success(), "{said}");
    // Nothing but who may read.
    assert_eq!(said.lines().count(), 2, "{said}");
    let who = "everybody who reaches the server reads local; who shows a token or a certificate reads git.example.org";
    assert!(said.contains(who), "{said}");
    // It is this file that was looked at.
    let broken = file.replace("no_default_upstreams", "no_default_upstream");
    fs::write(reader.home.join("tarpon.toml"), broken).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(reader.shell(&check, &[]).status.code(), Some(1));
}

/// The rules of `--oidc` that a page has.
fn issuer_rules(page: &str) -> Vec<IssuerRule> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(path).unwrap();
    let quoted = text.split(['`', '\'']);
    let rules = quoted.filter(|part| part.starts_with("https://") && part.contains(';'));
    rules.map(|rule| issuer_rule(rule).unwrap()).collect()
}

/// What a job types, and a name of its system.
fn lines_of_jobs(page: &str) -> [(&'static str, String); 4] {
    let gitlab = block(page, "yaml", "id_tokens");
    let mut lines = gitlab.lines().map(str::trim);
    let gitlab = lines.find_map(|line| line.strip_prefix("- ")).unwrap();
    let buildkite = block(page, "sh", "buildkite-agent");
    [
        ("github", block(page, "sh", "ACTIONS_ID_TOKEN_REQUEST_URL")),
        ("buildkite", buildkite.replace("$(build", "$(bin/build")),
        ("gitlab", gitlab.to_owned()),
        ("git", block(page, "sh", "credential.helper")),
    ]
}

/// The rules of the page about jobs are rules, and its lines have a job read by the token that it is given.
#[test]
fn a_job_shows_its_token_as_the_document_has_it() {
    let page = "docs/ci.md";
    let reader = Reader::new(small_lab());
    let signer = Arc::new(Signer::rsa("k"));
    let issuer = Issuer::new(&reader.home, "issuer", &signer);
    let ca = issuer.ca.display().to_string();
    let access = ["--no-default-upstreams", "--access", "test=token"];
    let mut settings = reader.lab.settings().with(&access);
    settings = settings.with(&["--oidc-ca", &ca]);
    let mut claims = issuer.claims_but(&serde_json::json!({"aud": "https://SERVER"}));
    let rules = issuer_rules(page);
    assert_eq!(rules.len(), 6, "{rules:?}");
    for rule in &rules {
        let (name, value) = &rule.claims[0];
        claims[name.as_str()] = serde_json::json!(value);
        let oidc = format!("{};{};{name}={value}", issuer.url, rule.audience);
        settings = settings.with(&["--oidc", &oidc]);
    }
    let server = settings.start();
    let token = signer.token(&claims);
    issuer.gives(signer, claims);
    fs::create_dir(reader.home.join("bin")).unwrap();
    let asked = "oidc request-token --audience https://SERVER --claim organization_id";
    let agent = format!("#!/bin/sh\n[ \"$*\" = \"{asked}\" ] && echo {token}\n");
    fs::write(reader.home.join("bin/buildkite-agent"), agent).unwrap();
    reader.types("chmod +x bin/buildkite-agent", &[], &[]);
    let place = format!("http://{}", server.address());
    let option = format!("--server {place}");
    let below = format!("{place}/git/test/small");
    let url = format!("{}/token?api-version=2.0", issuer.url);
    for (name, block) in lines_of_jobs(page) {
        let here = [
            ("--server https://SERVER", &*option),
            ("https://SERVER/git/git.example.org/team/app", &*below),
            ("https://git.example.org/team/app", "test/small"),
            (" app", &*format!(" {name}")),
            (
                "credential.https://SERVER.",
                &*format!("credential.{place}."),
            ),
        ];
        let given = match name {
            "gitlab" | "git" => ("TARPON_TOKEN", &*token),
            _ => ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "x"),
        };
        let there = ("ACTIONS_ID_TOKEN_REQUEST_URL", &*url);
        reader.types(&block, &here, &[given, there, ("CURL_CA_BUNDLE", &*ca)]);
        reader.expect_clone(name);
    }
}
