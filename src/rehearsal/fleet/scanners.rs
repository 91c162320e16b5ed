//! Mail scanners and link previews: programs that open the address in a message before its reader does, and sometimes again weeks later.
//!
//! A scanner sends GET or HEAD and runs no JavaScript. What it opens must have no effect: no token at Belvo, no input, no message of relink.
//! Then it stops no reminder and breaks no claim. Each answer is compared with the page that is right for the address.

use reqwest::Method;
use reqwest::header::{ACCEPT, USER_AGENT};

use super::browser::view_of;
use super::http_server::Answer;
use super::mails::{Mail, right_status, right_views};
use super::rates::{Draw, Look, SCANNERS};
use super::state::{FleetEvent, Simulation};

impl Simulation {
    /// Plans the looks of the program that scans the mails of this person.
    pub(super) fn plan_scans(&mut self, number: usize, mail: &Mail) {
        // A person stays with one mail provider.
        let mut provider = fastrand::Rng::with_seed(self.checker.person(number) as u64);
        let (_, looks) = SCANNERS[provider.pick(SCANNERS.iter().map(|scanner| scanner.0))];
        for look in looks {
            let wait = self.members[number].rng.between(look.after);
            self.plan_in(wait, FleetEvent::Scan { number, mail: Box::new(mail.clone()), look });
        }
    }

    /// A scanner opens the address in a message.
    pub(super) async fn scan(&mut self, number: usize, mail: &Mail, look: &Look) -> anyhow::Result<()> {
        let before = (self.control.tokens_minted_count(), self.relink.activity_count());
        let method = if look.is_head { Method::HEAD } else { Method::GET };
        let request = self.http.request(method, &mail.url)?.header(ACCEPT, "*/*");
        let request = request.header(USER_AGENT, look.user_agent).header("x-forwarded-for", look.from);
        let answer = self.ask(request).await?;
        let tokens = self.control.tokens_minted_count() - before.0;
        let effects = self.relink.activity_count() - before.1;
        self.scans.looks += 1;
        self.scans.links.insert(number);
        self.scans.tokens_minted += tokens;
        self.scans.effects += effects;
        if tokens + effects > 0 {
            let now = self.now();
            let what =
                format!("scanned: a mail scanner at {now} led to {tokens} tokens and {effects} inputs or messages");
            self.checker.failures.push((number, what));
        }
        self.check_page(number, mail, &answer)
    }

    /// Compares an answer to GET or HEAD with the page that is right for the address. The answer was the last thing that happened.
    pub(super) fn check_page(&mut self, number: usize, mail: &Mail, answer: &Answer) -> anyhow::Result<()> {
        let now = self.now();
        let link = self.relink.link(&self.members[number].link)?;
        let right = right_views(mail, link.as_ref(), now);
        let view = view_of(&answer.body);
        let is_right = match &view {
            Some(view) => right.contains(&view.as_str()) && answer.status == right_status(view),
            None => answer.body.is_empty() && right.iter().any(|view| right_status(view) == answer.status),
        };
        let link = &self.members[number].link;
        self.link_log.log(link, now, || format!("page     {} {view:?}", answer.status));
        if !is_right {
            self.scans.wrong_pages += 1;
            let status = answer.status;
            let what =
                format!("wrong page: at {now} it was {view:?} with status {status}, and {right:?} would be right");
            self.checker.failures.push((number, what));
        }
        *self.scans.views.entry(view.unwrap_or_else(|| "head".to_owned())).or_default() += 1;
        Ok(())
    }
}
