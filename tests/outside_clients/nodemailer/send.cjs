// Sends mail by nodemailer. Standard input: { transport, messages, authority } in JSON. Standard output: what became of each
// message, in JSON and in their order.

const fs = require('fs');
const nodemailer = require('nodemailer');

const { transport, messages, authority } = JSON.parse(fs.readFileSync(0, 'utf8'));
if (transport.secure || transport.requireTLS) {
    transport.tls = { ca: fs.readFileSync(authority) };
}
const transporter = nodemailer.createTransport({ host: '127.0.0.1', name: 'client.example', ...transport });

const outcome = (message) =>
    transporter.sendMail(message).then(
        ({ accepted, rejected, response }) => ({ accepted, rejected, response }),
        ({ code, responseCode }) => ({ code, responseCode }),
    );

Promise.all(messages.map(outcome)).then((outcomes) => {
    transporter.close();
    console.log(JSON.stringify(outcomes));
});
