//! Operational limits of Brazil's open finance: the number of requests per month for the data of a consent.
//!
//! The regulator counts per user (CPF or CNPJ), institution and calendar month; here one link is one user. Belvo's
//! scheduled refreshes do not count. Next: [`super::bank`], which checks the limits before each login.

use serde::Serialize;

use crate::clock::next_month;

/// The monthly limit of each resource (open-finance guide, operational limits). Transactions of the last
/// few days have a larger limit, which is left out: a refresh requests a year of them.
const LIMITS: [(&str, u32); 4] = [("OWNERS", 8), ("ACCOUNTS", 8), ("TRANSACTIONS", 8), ("BILLS", 30)];

/// A limit of a link, and its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuotaUse {
    /// The resource, as in `fetch_resources`.
    pub resource: &'static str,
    /// The maximum number of requests in a calendar month.
    pub limit: u32,
    /// The number of requests in this month.
    pub used: u32,
}

/// The use of the monthly limits of a link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quota {
    /// The end of the month, at which all counts are reset.
    ends_at: i64,
    used: [u32; LIMITS.len()],
}

impl Quota {
    /// All limits at this time.
    pub(crate) fn uses(&self, now: i64) -> Vec<QuotaUse> {
        let used = if now < self.ends_at { self.used } else { Self::default().used };
        let rows = LIMITS.iter().zip(used);
        rows.map(|(&(resource, limit), used)| QuotaUse { resource, limit, used }).collect()
    }

    /// Whether one more request for each of these resources is allowed.
    pub(crate) fn allows(&self, now: i64, resources: &[String]) -> bool {
        let is_spent = |quota: &QuotaUse| quota.used >= quota.limit;
        !self
            .uses(now)
            .iter()
            .filter(|quota| is_spent(quota))
            .any(|quota| resources.iter().any(|name| name == quota.resource))
    }

    /// Counts one request for each of these resources.
    pub(crate) fn spend(&mut self, now: i64, resources: &[String]) {
        if now >= self.ends_at {
            *self = Self { ends_at: next_month(now), ..Self::default() };
        }
        for ((resource, _), used) in LIMITS.iter().zip(&mut self.used) {
            *used += u32::from(resources.iter().any(|name| name == resource));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_resource_has_its_own_limit_and_the_month_ends_them_all() {
        const FEBRUARY_2024: i64 = 1_706_879_502_593;
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut quota = Quota::default();
        for _ in 0..8 {
            assert!(quota.allows(FEBRUARY_2024, &names(&["ACCOUNTS", "BILLS"])));
            quota.spend(FEBRUARY_2024, &names(&["ACCOUNTS", "BILLS"]));
        }
        assert!(!quota.allows(FEBRUARY_2024, &names(&["BILLS", "ACCOUNTS"])));
        assert!(quota.allows(FEBRUARY_2024, &names(&["BILLS", "OWNERS", "INVESTMENTS"])));
        let march = next_month(FEBRUARY_2024);
        assert!(!quota.allows(march - 1, &names(&["ACCOUNTS"])));
        assert!(quota.allows(march, &names(&["ACCOUNTS"])));
        assert!(quota.uses(march).iter().all(|quota| quota.used == 0));
    }
}
