//! Questions to upstreams whose own permission decides: whether somebody may read a repository, or have some
//! objects of it.
//!
//! Each is asked once for all who wait for its answer, by a task of its own: whoever began it may leave. Before
//! anybody else can wait for it, it has its place among the questions and its part of its client's; so nobody waits
//! for what another client has to wait for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::asker::Asker;
use super::flights::Duty;
use super::question_turns::{Of, Turn, Verdict, Who};
use super::state::Jobs;
use crate::access::credential::Credential;
use crate::access::packets::Says;
use crate::access::permissions::{ByPermission, Shown};
use crate::access::question::Question;
use crate::access::verdicts::{About, Known, Verdicts};
use crate::limits::{QUESTION_LIMIT_MS, QUESTION_TRIES_MAX};
use crate::manifest::want::AnyId;
use crate::mirror::via::HEADER;
use crate::telemetry::metrics::{Event, QuestionResult};

/// What is asked for somebody.
#[derive(Clone)]
pub(crate) struct Asking {
    /// The repository's canonical name.
    pub name: Arc<str>,
    pub url: String,
    /// Who has shown something for it.
    pub asker: Asker,
}

/// What it is asked about, and what the answer is remembered by.
#[derive(Clone)]
pub(super) enum Topic {
    Repository,
    /// These objects, all of which are given out or none.
    Objects(About, Vec<AnyId>),
}

/// A question, as all who wait for it see it.
struct Posed {
    asking: Asking,
    topic: Topic,
    about: About,
    /// When the answer was yes the last time.
    before: Option<Instant>,
}

impl Jobs {
    /// Whether somebody may read a repository; known within [`QUESTION_LIMIT_MS`], or not.
    pub(crate) async fn verdict(self: Rc<Self>, asking: Asking) -> Verdict {
        self.ask_upstream(asking, Topic::Repository).await
    }

    /// The same of what it is about.
    pub(super) async fn ask_upstream(self: &Rc<Self>, asking: Asking, topic: Topic) -> Verdict {
        let Some(shown) = asking.asker.shown.clone() else {
            return Verdict::Unknown;
        };
        let about = match &topic {
            Topic::Repository => shown.about,
            Topic::Objects(about, _) => *about,
        };
        let before = match self.verdicts_of(&topic).known(&about, Instant::now()) {
            Known::Yes => return Verdict::Yes,
            Known::No => return Verdict::No,
            Known::Before(at) => Some(at),
            Known::Nothing => None,
        };
        let posed = Posed {
            asking,
            topic,
            about,
            before,
        };
        let limit = Duration::from_millis(QUESTION_LIMIT_MS);
        match tokio::time::timeout(limit, self.ask_or_join(posed, &shown)).await {
            Ok(verdict) => verdict,
            // It waited for its turn, and was not asked.
            Err(_) => Verdict::Unknown,
        }
    }

    fn verdicts_of(&self, topic: &Topic) -> &Verdicts {
        match topic {
            Topic::Repository => &self.permissions.verdicts,
            Topic::Objects(..) => &self.permissions.objects,
        }
    }

    /// Whose question it is. Who shows no credential reads what all may, and is no stranger there; what else he names
    /// anybody can.
    fn asked_of(&self, posed: &Posed, shown: &Shown) -> Of {
        let is_nobody = shown.mark == Credential::NONE.mark();
        let is_of_refs = matches!(posed.topic, Topic::Repository);
        let verdicts = &self.permissions.verdicts;
        let may_read = verdicts.was_yes(&shown.about, Instant::now());
        match may_read && (is_of_refs || !is_nobody) {
            true => Of::Proven,
            false => Of::Strangers,
        }
    }

    /// Has it asked, or waits for whoever has. What becomes of a question can be due to who asks it, by way of which
    /// servers: so one of somebody else that had no answer is asked again.
    async fn ask_or_join(self: &Rc<Self>, posed: Posed, shown: &Shown) -> Verdict {
        let about = posed.about;
        let host = posed.asking.name.split('/').next().unwrap_or_default();
        let places = self.questions.places(self.asked_of(&posed, shown), host);
        let who = Who {
            client: posed.asking.asker.client,
            mark: shown.mark,
        };
        let mut tries = QUESTION_TRIES_MAX;
        loop {
            tries -= 1;
            let turn = tokio::select! {
                biased;
                () = self.questions.asking.begun(&about) => None,
                turn = places.take(who) => Some(turn),
            };
            // It may have been answered meanwhile.
            match self.verdicts_of(&posed.topic).known(&about, Instant::now()) {
                Known::Yes => return Verdict::Yes,
                Known::No => return Verdict::No,
                Known::Before(_) | Known::Nothing => {}
            }
            let (flight, duty) = self.questions.asking.join(&about);
            let is_own = duty.is_some();
            if let (Some(duty), Some(turn)) = (duty, turn) {
                if !places.begin(who) {
                    // Nobody else waits for it yet.
                    return self.too_much(&posed);
                }
                let (asking, topic) = (posed.asking.clone(), posed.topic.clone());
                let posed = Posed {
                    asking,
                    topic,
                    ..posed
                };
                spawn_local(self.clone().ask_alone(posed, (duty, turn)));
            }
            match flight.end().await.unwrap_or(Verdict::Unknown) {
                Verdict::Unknown if !is_own && tries > 0 => {}
                verdict => return verdict,
            }
        }
    }

    /// Whoever asks has asked too much within this minute.
    fn too_much(&self, posed: &Posed) -> Verdict {
        self.meter.add(Event::Question(QuestionResult::Nothing), 1);
        let repository = &*posed.asking.name;
        tracing::warn!(
            repository,
            "its upstream was asked too much within a minute"
        );
        // What was said before counts where the upstream cannot say it: it was not asked.
        Verdict::Unknown
    }

    async fn ask_alone(self: Rc<Self>, posed: Posed, (duty, turn): (Duty<About, Verdict>, Turn)) {
        let host = posed.asking.name.split('/').next().unwrap_or_default();
        let asked = Instant::now();
        let says = match self.permissions.of(host) {
            Some(upstream) => self.put_question(upstream, &posed).await,
            None => Says::Nothing("it is no upstream whose permission decides".to_owned()),
        };
        turn.end(matches!(says, Says::Yes | Says::No));
        if let Says::Yes | Says::No = says {
            let verdicts = self.verdicts_of(&posed.topic);
            verdicts.note(posed.about, says == Says::Yes, asked);
        }
        let (verdict, result) = match &says {
            Says::Yes => (Verdict::Yes, QuestionResult::Yes),
            Says::No => (Verdict::No, QuestionResult::No),
            Says::Nothing(_) => (self.or_before(posed.before), QuestionResult::Nothing),
        };
        self.meter.add(Event::Question(result), 1);
        if let Says::Nothing(why) = says {
            let repository = &*posed.asking.name;
            tracing::warn!(
                repository,
                "its upstream does not say who may read it: {why}"
            );
        }
        duty.done(verdict);
    }

    async fn put_question(&self, upstream: &ByPermission, posed: &Posed) -> Says {
        let Posed { asking, topic, .. } = posed;
        let questioner = upstream.questioner.clone();
        let (url, shown) = (asking.url.clone(), asking.asker.shown.clone());
        let (via, topic) = (
            asking.asker.via.then(&self.git.via).to_string(),
            topic.clone(),
        );
        let asked = self.askers.ask(move || {
            let authorization = shown.and_then(|shown| shown.credential.header_value());
            let question = Question {
                url: &url,
                authorization: authorization.as_ref().map(|value| value.as_str()),
                via: Some((HEADER, &via)),
            };
            match &topic {
                Topic::Repository => questioner.ask(&question),
                Topic::Objects(_, ids) => questioner.ask_for(&question, ids),
            }
        });
        asked
            .await
            .unwrap_or_else(|| Says::Nothing("the question was lost".to_owned()))
    }

    fn or_before(&self, before: Option<Instant>) -> Verdict {
        let is_covered = |at| self.permissions.verdicts.covers(at, Instant::now());
        match before.is_some_and(is_covered) {
            true => Verdict::Yes,
            false => Verdict::Unknown,
        }
    }
}
