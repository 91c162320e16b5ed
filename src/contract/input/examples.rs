//! An example of each kind of body, for the documentation and the schemas. All values are invented.

use serde_json::{Value, json};

use super::{ApiError, Command, Observation, Webhook, Widget};

impl Webhook {
    /// The refresh of a recurrent link could not log in.
    pub fn example() -> Value {
        json!({
            "webhook_id": "aadf41a1fc8e4f79a49f7f04027ac999",
            "webhook_type": "LINK",
            "process_type": "recurrent_update",
            "webhook_code": "invalid_credentials",
            "link_id": "16f68516-bcbc-4cf7-b815-c500d4204e28",
            "request_id": "4363b08b-51eb-4350-9c74-5df5ac92a7f6",
            "external_id": "your_external_id",
            "data": {
                "error_code": "login_error",
                "error_message": "Invalid credentials provided to login to the institution",
                "status": 400
            }
        })
    }
}

impl ApiError {
    /// A request for transactions was answered 428.
    pub fn example() -> Value {
        json!({
            "http_status": 428,
            "method": "POST",
            "path": "/api/transactions/",
            "link_id": "30cb4806-6e00-48a4-91c9-ca55968576c8",
            "body": [{
                "code": "token_required",
                "message": "A MFA token is required by the institution to login",
                "request_id": "8c7b283c6efa449c9c028a16b5c249fa",
                "session": "2675b703b9d4451f8d4861a3eee54449",
                "expiry": 9600,
                "link": "30cb4806-6e00-48a4-91c9-ca55968576c8"
            }]
        })
    }
}

impl Widget {
    /// The user repaired the link.
    pub fn example() -> Value {
        json!({
            "event": "success",
            "link": "16f68516-bcbc-4cf7-b815-c500d4204e28",
            "institution": "erebor_mx_retail"
        })
    }
}

impl Observation {
    /// A link was read, and works.
    pub fn example() -> Value {
        json!({
            "observed_at": "2026-11-22T10:15:00Z",
            "source": "verify",
            "outcome": "found",
            "link": {
                "id": "16f68516-bcbc-4cf7-b815-c500d4204e28",
                "institution": "erebor_mx_retail",
                "access_mode": "recurrent",
                "status": "valid",
                "refresh_rate": "6h",
                "last_accessed_at": "2026-11-22T10:14:58.593032Z",
                "external_id": "your_external_id",
                "institution_user_id": "sooE7XJWEKypZJR603ecaWYk-8Ap0oD2Nr1pBQ4eG9c=",
                "created_at": "2026-03-01T08:00:00.170428Z",
                "fetch_resources": ["ACCOUNTS", "OWNERS", "TRANSACTIONS"]
            }
        })
    }
}

impl Command {
    /// The user is travelling.
    pub fn example() -> Value {
        json!({
            "command": "snooze",
            "until": "2026-12-01T09:00:00Z",
            "by": "support@example.com",
            "reason": "The user is travelling until then"
        })
    }
}
