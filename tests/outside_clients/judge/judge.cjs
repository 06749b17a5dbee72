// Compares messages as they were sent with what arrived, by mailparser alone: judge.cjs FOLDER.
//
// The folder has NAME.sent and NAME.arrived. Prints a line for each difference, as JSON: name, what, sent, arrived. The rules: the
// subject is the same; the text that arrived was sent, and is there if one was; every attachment arrives octet for octet under its
// name.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { simpleParser } = require("mailparser");

// What is shown, and not what would be made of it.
const AS_SENT = { skipHtmlToText: true, skipTextToHtml: true, skipTextLinks: true, skipImageLinks: true, keepCidLinks: true };

// Without what no reader sees: kinds of white space, control characters, forms of one letter. Unknown octets are shown in more
// than one way.
function seen(text) {
    return (text || "")
        .replace(/^(\s*<br\/>)+\s*$/, "")
        .normalize("NFC")
        .replace(/\uFEFF/g, "")
        .replace(/\s+/gu, " ")
        .replace(/\p{C}/gu, "")
        .replace(/[\uFFFD?]+/gu, "\uFFFD")
        .trim();
}

// Line ends are none of the content of text.
function digest(octets) {
    const lines = octets.toString("latin1").replace(/\s+/g, "\n").trim();
    return crypto.createHash("sha256").update(lines, "latin1").digest("hex");
}

function lastOf(name) {
    return seen(name.split(/[/\\]/).pop());
}

async function compare(name, folder) {
    const read = (kind) => simpleParser(fs.readFileSync(path.join(folder, `${name}.${kind}`)), AS_SENT);
    const sent = await read("sent");
    const arrived = await read("arrived");
    const differs = (what, before, after) =>
        console.log(JSON.stringify({ name, what, sent: before, arrived: after }));

    if (seen(sent.subject) !== seen(arrived.subject)) {
        differs("subject", sent.subject || "", arrived.subject || "");
    }
    const shown = [sent.text, sent.html || ""].map(seen);
    // It does not know UTF-7.
    if (/charset="?utf-7/i.test(fs.readFileSync(path.join(folder, `${name}.sent`), "latin1"))) {
        return;
    }
    const text = seen(arrived.html || arrived.text);
    if (!text && shown.some((form) => form)) {
        differs("text is lost", shown.map((form) => form.slice(0, 200)), "");
    }
    if (text && !shown.some((form) => form.includes(text))) {
        differs("text", shown.map((form) => form.slice(0, 200)), text.slice(0, 200));
    }
    const got = new Set(arrived.attachments.map((part) => digest(part.content)));
    const names = arrived.attachments.map((part) => lastOf(part.filename || ""));
    for (const part of sent.attachments) {
        if (!part.content.length) {
            continue;
        }
        if (!got.has(digest(part.content))) {
            differs("attachment", `${part.contentType} ${part.filename} ${part.content.length}`, arrived.attachments.length);
        }
        const given = lastOf(part.filename || "");
        if (given && given.length <= 200 && !names.includes(given)) {
            differs("name", part.filename, names);
        }
    }
}

async function main() {
    const folder = process.argv[2];
    const names = fs.readdirSync(folder).filter((name) => name.endsWith(".sent"));
    for (const name of names.sort().map((name) => name.slice(0, -".sent".length))) {
        try {
            await compare(name, folder);
        } catch (error) {
            console.log(JSON.stringify({ name, what: "the judge fails", sent: String(error), arrived: "" }));
        }
    }
}

main();
