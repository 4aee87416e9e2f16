// An endpoint that is none of ours: the CloudEvents SDK for JavaScript reads every request, the
// reference library of Standard Webhooks verifies it where a secret is given. A line of JSON on stdout
// per request tells what they made of it; the first line is the port.
//
// node receiver.mjs [SECRET [CERTIFICATE KEY]]

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { CloudEvent, HTTP } from "cloudevents";
import { Webhook } from "standardwebhooks";

const [secret, certificate, key] = process.argv.slice(2);
const webhook = secret ? new Webhook(secret) : undefined;

function receive(headers, body) {
  webhook?.verify(body, headers, { jsonParse: false });
  const read = HTTP.toEvent({ headers, body });
  const events = Array.isArray(read) ? read : [read];
  for (const event of events) {
    if (!(event instanceof CloudEvent)) throw new Error("not an event of the SDK");
    event.validate();
  }
  return events;
}

function answer(request, response) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks).toString("utf8");
    const told = { contentType: request.headers["content-type"], webhookId: request.headers["webhook-id"] };
    try {
      told.events = receive(request.headers, body).map((event) => event.toJSON());
      response.writeHead(204);
    } catch (error) {
      told.error = `${error.name}: ${error.message}`;
      response.writeHead(400, { "content-type": "text/plain" });
      response.write(told.error);
    }
    console.log(JSON.stringify(told));
    response.end();
  });
}

const server = certificate
  ? createTlsServer({ cert: readFileSync(certificate), key: readFileSync(key) }, answer)
  : createServer(answer);
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
// Ends with the test that started it.
process.stdin.on("end", () => process.exit(0)).resume();
