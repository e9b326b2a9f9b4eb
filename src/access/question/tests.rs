use super::*;
use crate::mirror::testing::{Request, Scratch, Server, http_backend};
use std::net::TcpListener;
use std::sync::Mutex;

const ALICE: &str = "Basic YWxpY2U6aHVzaA==";
const BOB: &str = "Basic Ym9iOmh1c2g=";

fn questioner() -> Questioner {
    Questioner::new(&Way::default(), false).unwrap()
}

fn ask(url: &str, authorization: Option<&str>) -> Says {
    let via = Some(("Tarpon-Via", "00"));
    questioner().ask(&Question {
        url,
        authorization,
        via,
    })
}

fn field<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let found = request
        .headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn refused(status: &str) -> Vec<u8> {
    let challenge = "WWW-Authenticate: Basic realm=\"git\"\r\n";
    format!("HTTP/1.1 {status}\r\n{challenge}Content-Length: 0\r\nConnection: close\r\n\r\n")
        .into_bytes()
}

/// git's own server, where `alice` may read what is private, and everybody what is public.
fn guarded(scratch: &Scratch) -> Server {
    let root = scratch.root().to_owned();
    Server::new(move |request| {
        let is_public = request.target.starts_with("/public.git");
        match field(request, "authorization") {
            Some(ALICE) => http_backend(&root, request),
            None if is_public => http_backend(&root, request),
            None => refused("401 Unauthorized"),
            Some(_) => refused("403 Forbidden"),
        }
    })
}

#[test]
fn git_hosts_say_who_may_read() {
    let scratch = Scratch::with_commit();
    for name in ["private", "public"] {
        let to = format!("{name}.git");
        crate::mirror::testing::git(scratch.root(), &["clone", "-q", "--bare", "up.git", &to]);
    }
    let server = guarded(&scratch);
    let says = |name: &str, who| ask(&format!("http://127.0.0.1:{}/{name}", server.port), who);
    assert_eq!(says("private.git", Some(ALICE)), Says::Yes);
    assert_eq!(says("private.git", Some(BOB)), Says::No);
    assert_eq!(says("private.git", None), Says::No);
    assert_eq!(says("public.git", None), Says::Yes);
    assert_eq!(
        says("public.git", Some(BOB)),
        Says::No,
        "it is not taken for none"
    );
    assert_eq!(says("none.git", Some(ALICE)), Says::No, "404");
}

#[test]
fn what_is_sent_is_git_s_and_nothing_of_the_server_s() {
    let scratch = Scratch::with_commit();
    let (root, seen) = (scratch.root().to_owned(), Arc::new(Mutex::new(Vec::new())));
    let kept = seen.clone();
    let server = Server::new(move |request| {
        let mut head: Vec<String> = request
            .headers
            .iter()
            .map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase()))
            .collect();
        head.sort();
        kept.lock().unwrap().push((request.target.clone(), head));
        http_backend(&root, request)
    });
    let url = format!("http://127.0.0.1:{}/up.git", server.port);
    assert_eq!(ask(&url, Some(ALICE)), Says::Yes);
    let (target, head) = seen.lock().unwrap().remove(0);
    assert_eq!(target, "/up.git/info/refs?service=git-upload-pack");
    let host = format!("host: 127.0.0.1:{}", server.port);
    let agent = format!("user-agent: {USER_AGENT}");
    let expected = [
        "accept: */*",
        &format!("authorization: {ALICE}"),
        "git-protocol: version=2",
        &host,
        "pragma: no-cache",
        "tarpon-via: 00",
        &agent,
    ];
    let connection =
        |line: &&String| !line.starts_with("connection:") && !line.starts_with("accept-encoding:");
    assert_eq!(head.iter().filter(connection).collect::<Vec<_>>(), expected);
}

#[test]
fn whatever_else_comes_is_neither_yes_nor_no() {
    let page = |status: &str, kind: &str, body: &str| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    };
    let answers = [
        page("200 OK", "text/html", "<html>Log in</html>"),
        page("200 OK", ADVERTISEMENT, "<html>Log in</html>"),
        page("200 OK", ADVERTISEMENT, "0009ERR x"),
        page("200 OK", ADVERTISEMENT, "000fversion 2\n"),
        page("200 OK", ADVERTISEMENT, ""),
        page("200 OK", "text/plain", "000eversion 2\n0000"),
        page("204 No Content", ADVERTISEMENT, ""),
        page("429 Too Many Requests", "text/plain", ""),
        page("500 No", "text/plain", ""),
        page("503 No", "text/plain", ""),
        page("304 Not Modified", "text/plain", ""),
        page("407 Proxy", "text/plain", ""),
        b"SSH-2.0-x\r\n\r\n".to_vec(),
        Vec::new(),
    ];
    for answer in answers {
        let shown = answer.escape_ascii().to_string();
        let server = Server::new(move |_| answer.clone());
        let says = ask(&format!("http://127.0.0.1:{}/a", server.port), Some(ALICE));
        assert!(matches!(says, Says::Nothing(_)), "{shown}: {says:?}");
    }
    for version in ["000eversion 2\n0000", "001e# service=git-upload-pack\n0000"] {
        let kind = format!("{ADVERTISEMENT}; charset=x");
        let answer = page("200 OK", &kind, version);
        let server = Server::new(move |_| answer.clone());
        assert_eq!(
            ask(&format!("http://127.0.0.1:{}/a", server.port), None),
            Says::Yes
        );
    }
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert!(matches!(
        ask(&format!("http://127.0.0.1:{closed}/a"), None),
        Says::Nothing(_)
    ));
}

#[test]
fn an_upstream_that_is_silent_is_waited_for_so_long() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    let began = Instant::now();
    assert!(matches!(ask(&url, None), Says::Nothing(_)));
    let took = began.elapsed();
    let limit = Duration::from_millis(QUESTION_ANSWER_MS);
    assert!(
        took >= limit && took < limit + Duration::from_secs(5),
        "{took:?}"
    );
}

#[test]
fn only_redirects_to_the_same_repository_are_followed() {
    let scratch = Scratch::with_commit();
    let root = scratch.root().to_owned();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let server = Server::new(move |request| {
        seen.lock().unwrap().push(request.target.clone());
        let to = |to: &str| {
            format!("HTTP/1.1 301 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
        };
        let query = "info/refs?service=git-upload-pack";
        match request.target.strip_suffix(query) {
            Some("/up/") => to(&format!("/up.git/{query}")),
            Some("/old/") => to(&format!("/up.git/{query}")),
            Some("/away/") => to(&format!("http://localhost:1/away/{query}")),
            Some("/login/") => to("/users/sign_in"),
            Some("/bare/") => refused("302 Found"),
            Some("/round/") => to(&format!("/round.git/{query}")),
            Some("/round.git/") => to(&format!("/round/{query}")),
            _ => http_backend(&root, request),
        }
    });
    let says = |name: &str| {
        ask(
            &format!("http://127.0.0.1:{}/{name}", server.port),
            Some(ALICE),
        )
    };
    assert_eq!(says("up"), Says::Yes);
    for name in ["old", "away", "login", "bare", "round"] {
        asked.lock().unwrap().clear();
        assert_eq!(says(name), Says::No, "{name}");
        let asked = asked.lock().unwrap();
        assert!(
            !asked.iter().any(|target| target.starts_with("/up")),
            "{asked:?}"
        );
    }
}

#[test]
fn an_id_is_shown_by_a_fetch_of_it() {
    let scratch = Scratch::with_commit();
    let left = scratch.commit("main", "two");
    let git = |args: &[&str]| crate::mirror::testing::git(&scratch.up(), args);
    let (first, blob) = (
        git(&["rev-parse", "main~1"]),
        git(&["rev-parse", "main:file"]),
    );
    git(&["update-ref", "refs/heads/main", &first]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (root, seen) = (scratch.root().to_owned(), asked.clone());
    let server = Server::new(move |request| match field(request, "authorization") {
        Some(ALICE) => {
            seen.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&request.body).into_owned());
            http_backend(&root, request)
        }
        _ => refused("401 Unauthorized"),
    });
    let url = format!("http://127.0.0.1:{}/up.git", server.port);
    let says = |ids: &[&str], who| {
        let ids: Vec<_> = ids
            .iter()
            .map(|id| ObjectId::from_hex(id.as_bytes()).unwrap())
            .collect();
        let question = Question {
            url: &url,
            authorization: Some(who),
            via: None,
        };
        questioner().ask_for(&question, &ids)
    };
    // A host of version 2 gives out what it has.
    assert_eq!(says(&[&first, &left, &blob], ALICE), Says::Yes);
    assert_eq!(says(&[&left], BOB), Says::No);
    let absent = "1".repeat(40);
    assert_eq!(says(&[&absent], ALICE), Says::No);
    assert_eq!(says(&[&first, &absent], ALICE), Says::No, "all or nothing");
    let request = || asked.lock().unwrap().last().unwrap().clone();
    assert!(request().contains("deepen 1\n"), "{}", request());
    git(&["config", "uploadpack.allowFilter", "true"]);
    assert_eq!(says(&[&left], ALICE), Says::Yes);
    assert!(request().contains("filter tree:0\n"), "{}", request());
}

#[test]
fn a_credential_is_sent_to_nobody_who_can_be_listened_to() {
    let url = "http://192.0.2.1/a";
    let began = Instant::now();
    assert_eq!(ask(url, Some(ALICE)), Says::No);
    assert!(began.elapsed() < Duration::from_secs(1), "it was tried");
}

/// A server with a certificate of its own.
#[test]
fn certificates_are_believed_as_the_operator_says() {
    let scratch = Scratch::with_commit();
    let Some((port, file, _server)) = tls_server(scratch.root()) else {
        return;
    };
    let url = format!("https://localhost:{port}/a");
    let says = |believed| {
        let way = Way {
            proxy: None,
            believed,
        };
        let question = Question {
            url: &url,
            authorization: Some(ALICE),
            via: None,
        };
        Questioner::new(&way, false).unwrap().ask(&question)
    };
    let Says::Nothing(why) = says(Believed::System) else {
        panic!("nobody has signed it");
    };
    assert!(
        why.contains("no authority that is believed here") && why.contains("sslCAInfo"),
        "{why}"
    );
    let directory = file.parent().map(Path::to_owned);
    assert_eq!(
        says(Believed::Own {
            file: Some(file),
            directory: None
        }),
        Says::Yes
    );
    assert_eq!(
        says(Believed::Own {
            file: None,
            directory
        }),
        Says::Yes
    );
    assert_eq!(says(Believed::All), Says::Yes);
    let absent = Believed::Own {
        file: Some("/none.pem".into()),
        directory: None,
    };
    assert!(
        Questioner::new(
            &Way {
                proxy: None,
                believed: absent
            },
            false
        )
        .is_err()
    );
}

struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `openssl s_server`, which says what git hosts do; nothing where there is no openssl.
fn tls_server(dir: &Path) -> Option<(u16, std::path::PathBuf, Ended)> {
    let certs = dir.join("certs");
    std::fs::create_dir(&certs).unwrap();
    let (cert, key) = (certs.join("ca.pem"), dir.join("key.pem"));
    let mut command = std::process::Command::new("openssl");
    command.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE".split(' '));
    command
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(std::process::Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        return None;
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {ADVERTISEMENT}\r\nContent-Length: 18\r\nConnection: close\r\n\r\n000eversion 2\n0000"
    );
    std::fs::create_dir_all(dir.join("a/info")).unwrap();
    std::fs::write(dir.join("a/info/refs?service=git-upload-pack"), answer).unwrap();
    let mut server = std::process::Command::new("openssl");
    server.args([
        "s_server",
        "-quiet",
        "-HTTP",
        "-accept",
        &format!("127.0.0.1:{port}"),
    ]);
    server
        .arg("-cert")
        .arg(&cert)
        .arg("-key")
        .arg(&key)
        .current_dir(dir);
    server
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let server = Ended(server.spawn().unwrap());
    crate::mirror::testing::until("openssl listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Some((port, cert, server))
}
