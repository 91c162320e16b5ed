// A handler of Belvo's webhooks as most teams write it: check the secret, store the webhook in a table, answer 200.
const crypto = require("node:crypto");
const express = require("express");
const { Pool } = require("pg");

const digest = (text) => crypto.createHash("sha256").update(text ?? "").digest();
const secret = digest(process.env.SECRET);
const pool = new Pool({ host: "127.0.0.1", user: "bench", database: "postgres", max: 20 });
const app = express();
app.disable("x-powered-by");
app.use(express.json());

app.post("/webhooks/belvo", async (request, response) => {
  if (!crypto.timingSafeEqual(digest(request.get("authorization")), secret)) {
    return response.status(401).json({ error: "unauthorized" });
  }
  const { link_id, webhook_type, webhook_code } = request.body;
  await pool.query(
    "INSERT INTO webhooks (link_id, webhook_type, webhook_code, body) VALUES ($1, $2, $3, $4)",
    [link_id, webhook_type, webhook_code, request.body],
  );
  response.json({ stored: true });
});

async function main() {
  for (let attempt = 0; ; attempt++) {
    try {
      await pool.query(
        "CREATE TABLE webhooks (id bigserial PRIMARY KEY, link_id text, webhook_type text, webhook_code text, " +
          "body jsonb, at timestamptz DEFAULT now())",
      );
      break;
    } catch (error) {
      if (attempt === 100) throw error; // PostgreSQL needs a moment to start.
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

main();
