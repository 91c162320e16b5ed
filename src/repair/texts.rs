//! All texts of the page, in its three languages.
//!
//! `{bank}` and `{brand}` are replaced by the names, or by `your_bank` and `the_app` if a name is not known. The names
//! are inserted as texts; the template escapes the result.

use super::locale::Locale;

/// The texts of one language.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) your_bank: &'static str,
    pub(super) the_app: &'static str,
    pub(super) needs_you: Message,
    pub(super) needs_bank: Message,
    pub(super) needs_consent: Message,
    pub(super) needs_nothing: Message,
    pub(super) credentials: &'static str,
    pub(super) token: &'static str,
    pub(super) in_progress: Message,
    /// The user has connected the bank anew.
    pub(super) superseded: Message,
    /// The same, and the new link is broken too.
    pub(super) superseded_and_broken: Message,
    pub(super) checking: Message,
    pub(super) still_checking: Message,
    pub(super) all_set: Message,
    pub(super) already_repaired: Message,
    pub(super) replaced: Message,
    pub(super) removed: Message,
    pub(super) expired: Message,
    pub(super) unknown: Message,
    pub(super) not_now: Message,
    /// The widget is being opened on this page.
    pub(super) opening: Message,
    pub(super) start: &'static str,
    pub(super) renew: &'static str,
    pub(super) start_again: &'static str,
    pub(super) try_again: &'static str,
    pub(super) back: &'static str,
    /// Who receives the credentials.
    pub(super) privacy: &'static str,
    pub(super) privacy_consent: &'static str,
    pub(super) name: &'static str,
    pub(super) document: &'static str,
    pub(super) document_hint: &'static str,
    pub(super) name_wrong: &'static str,
    pub(super) document_wrong: &'static str,
    pub(super) bank_down: &'static str,
    /// The same, and the app will write to the user.
    pub(super) bank_down_and_promised: &'static str,
    pub(super) cannot_start: &'static str,
    pub(super) support: &'static str,
    pub(super) languages: &'static str,
    pub(super) without_script: &'static str,
    pub(super) open_hosted: &'static str,
}

/// A headline and the sentences below it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) title: &'static str,
    pub(super) lead: &'static str,
}

const fn message(title: &'static str, lead: &'static str) -> Message {
    Message { title, lead }
}

/// The name of each language in itself.
pub(super) const fn own_name(locale: Locale) -> &'static str {
    match locale {
        Locale::Es => "Español",
        Locale::Pt => "Português",
        Locale::En => "English",
    }
}

/// The texts of a language.
pub(super) const fn of(locale: Locale) -> &'static Texts {
    match locale {
        Locale::Es => &ES,
        Locale::Pt => &PT,
        Locale::En => &EN,
    }
}

const EN: Texts = Texts {
    your_bank: "your bank",
    the_app: "the app",
    needs_you: message("Reconnect {bank}", ""),
    needs_bank: message(
        "{bank} has locked your access",
        "Unlock your online access at {bank} first. Then come back to this page and reconnect.",
    ),
    needs_consent: message(
        "Renew your permission for {bank}",
        "Your permission to share data from {bank} has ended. Renew it to stay connected.",
    ),
    needs_nothing: message(
        "{bank} cannot be connected now",
        "{bank} asks for a kind of confirmation that is not supported yet. There is nothing that you can do here.",
    ),
    credentials: "{bank} no longer accepts the saved login. Enter your current user and password on the next page.",
    token: "{bank} asks for a new security code. Have your code or your bank's app at hand, and enter it on the next page.",
    in_progress: message(
        "You are reconnecting {bank}",
        "Finish on the page that you have opened. This page shows by itself when it is done.",
    ),
    superseded: message(
        "You have connected {bank} again",
        "The new connection works, so there is nothing to do. If you need the earlier one too, you can still reconnect it.",
    ),
    superseded_and_broken: message(
        "You have connected {bank} again",
        "The new connection needs you too: open the newest message from {brand}. If you need the earlier one, you can reconnect it here.",
    ),
    checking: message(
        "We are checking the connection",
        "This takes a few seconds, sometimes some minutes. You may close this page.",
    ),
    still_checking: message(
        "The bank has not confirmed it yet",
        "This can take some minutes, and you may close this page. If something went wrong on the page before, try again.",
    ),
    all_set: message("All set", "{bank} is connected again. There is nothing else to do."),
    already_repaired: message("This is already fixed", "{bank} is connected again. There is nothing to do."),
    replaced: message(
        "This link is out of date",
        "It is from an earlier message. If {brand} has sent you a newer one, open the link in it. If not, there is nothing to do now: \
         {brand} writes to you when you are needed.",
    ),
    removed: message(
        "This connection was removed",
        "There is nothing to repair any more. To use {bank} again, connect it anew in {brand}.",
    ),
    expired: message(
        "This link has expired",
        "Links work for a limited time, for your safety. Open the newest message from {brand}, or reconnect in {brand}.",
    ),
    unknown: message(
        "This link does not work",
        "Perhaps it is not complete. Open the link in your message again, or copy all of it into the browser.",
    ),
    not_now: message("Please try again soon", "This page cannot be shown at the moment. Nothing is lost."),
    opening: message("Reconnect {bank}", "The secure page is opening."),
    start: "Reconnect now",
    renew: "Renew now",
    start_again: "Open the page again",
    try_again: "Try again",
    back: "Back to {brand}",
    privacy: "You enter your data on a secure page of Belvo, which connects banks, and {brand} does not see your password.",
    privacy_consent: "Your name and document are sent to Belvo, which connects banks. They are not stored here.",
    name: "Full name",
    document: "CPF or CNPJ",
    document_hint: "11 digits for a CPF, 14 characters for a CNPJ",
    name_wrong: "Enter your full name.",
    document_wrong: "Enter all characters of your CPF or CNPJ.",
    bank_down: "{bank} does not work properly at the moment. It is not your fault, and there is nothing to do now.",
    bank_down_and_promised: "{bank} does not work properly at the moment. It is not your fault, and there is nothing to do now: {brand} will \
                             write to you when it works again.",
    cannot_start: "The secure page cannot be opened at the moment. Please try again in a few minutes.",
    support: "Do you need help?",
    languages: "Language",
    without_script: "This page needs JavaScript for the next step.",
    open_hosted: "Continue without JavaScript",
};

const ES: Texts = Texts {
    your_bank: "tu banco",
    the_app: "la aplicación",
    needs_you: message("Vuelve a conectar {bank}", ""),
    needs_bank: message(
        "{bank} bloqueó tu acceso",
        "Primero desbloquea tu acceso en línea en {bank}. Después regresa a esta página y vuelve a conectar.",
    ),
    needs_consent: message(
        "Renueva tu permiso para {bank}",
        "Terminó tu permiso para compartir los datos de {bank}. Renuévalo para seguir conectado.",
    ),
    needs_nothing: message(
        "Por ahora no se puede conectar {bank}",
        "{bank} pide un tipo de confirmación que todavía no funciona aquí. No tienes que hacer nada en esta página.",
    ),
    credentials: "{bank} ya no acepta los datos de acceso guardados. En la página siguiente escribe tu usuario y contraseña actuales.",
    token: "{bank} pide un nuevo código de seguridad. Ten a la mano tu código o la aplicación de tu banco y escríbelo en la página \
            siguiente.",
    in_progress: message(
        "Estás conectando {bank}",
        "Termina en la página que abriste. Esta página se actualiza sola cuando esté listo.",
    ),
    superseded: message(
        "Ya conectaste {bank} de nuevo",
        "La nueva conexión funciona, así que no tienes que hacer nada. Si también necesitas la anterior, todavía puedes conectarla.",
    ),
    superseded_and_broken: message(
        "Ya conectaste {bank} de nuevo",
        "La nueva conexión también te necesita: abre el mensaje más reciente de {brand}. Si necesitas la anterior, puedes conectarla aquí.",
    ),
    checking: message(
        "Estamos revisando la conexión",
        "Tarda unos segundos, a veces algunos minutos. Puedes cerrar esta página.",
    ),
    still_checking: message(
        "El banco todavía no lo ha confirmado",
        "Puede tardar algunos minutos; puedes cerrar esta página. Si algo salió mal en la página anterior, intenta de nuevo.",
    ),
    all_set: message("Todo listo", "{bank} está conectado otra vez. No tienes que hacer nada más."),
    already_repaired: message("Ya está arreglado", "{bank} está conectado otra vez. No tienes que hacer nada."),
    replaced: message(
        "Este enlace ya no sirve",
        "Es de un mensaje anterior. Si {brand} te envió uno más nuevo, abre el enlace de ese mensaje. Si no, por ahora no tienes que \
         hacer nada: {brand} te escribirá cuando haga falta.",
    ),
    removed: message(
        "Esta conexión se eliminó",
        "Ya no hay nada que arreglar. Para usar {bank} otra vez, conéctalo de nuevo en {brand}.",
    ),
    expired: message(
        "Este enlace venció",
        "Por tu seguridad, los enlaces funcionan por tiempo limitado. Abre el mensaje más reciente de {brand} o vuelve a conectar \
         desde {brand}.",
    ),
    unknown: message(
        "Este enlace no funciona",
        "Tal vez no está completo. Abre otra vez el enlace de tu mensaje o cópialo entero en el navegador.",
    ),
    not_now: message("Intenta de nuevo pronto", "En este momento no se puede mostrar esta página. No se pierde nada."),
    opening: message("Vuelve a conectar {bank}", "Se está abriendo la página segura."),
    start: "Conectar ahora",
    renew: "Renovar ahora",
    start_again: "Abrir la página otra vez",
    try_again: "Intentar de nuevo",
    back: "Volver a {brand}",
    privacy: "Escribes tus datos en una página segura de Belvo, que conecta bancos, y {brand} no ve tu contraseña.",
    privacy_consent: "Tu nombre y documento se envían a Belvo, que conecta bancos. Aquí no se guardan.",
    name: "Nombre completo",
    document: "CPF o CNPJ",
    document_hint: "11 dígitos para un CPF, 14 caracteres para un CNPJ",
    name_wrong: "Escribe tu nombre completo.",
    document_wrong: "Escribe todos los caracteres de tu CPF o CNPJ.",
    bank_down: "{bank} no funciona bien en este momento. No es tu culpa y por ahora no tienes que hacer nada.",
    bank_down_and_promised: "{bank} no funciona bien en este momento. No es tu culpa y por ahora no tienes que hacer nada: {brand} te \
                             escribirá cuando vuelva a funcionar.",
    cannot_start: "En este momento no se puede abrir la página segura. Intenta de nuevo en unos minutos.",
    support: "¿Necesitas ayuda?",
    languages: "Idioma",
    without_script: "El siguiente paso de esta página necesita JavaScript.",
    open_hosted: "Continuar sin JavaScript",
};

const PT: Texts = Texts {
    your_bank: "seu banco",
    the_app: "o aplicativo",
    needs_you: message("Conecte {bank} novamente", ""),
    needs_bank: message(
        "{bank} bloqueou seu acesso",
        "Primeiro desbloqueie seu acesso on-line em {bank}. Depois volte a esta página e conecte novamente.",
    ),
    needs_consent: message(
        "Renove sua permissão para {bank}",
        "Sua permissão para compartilhar dados de {bank} terminou. Renove para continuar conectado.",
    ),
    needs_nothing: message(
        "Por enquanto não é possível conectar {bank}",
        "{bank} pede um tipo de confirmação que ainda não funciona aqui. Você não precisa fazer nada nesta página.",
    ),
    credentials: "{bank} não aceita mais os dados de acesso salvos. Na próxima página, digite seu usuário e sua senha atuais.",
    token: "{bank} pede um novo código de segurança. Tenha em mãos seu código ou o aplicativo do banco e digite-o na próxima página.",
    in_progress: message(
        "Você está conectando {bank}",
        "Termine na página que você abriu. Esta página se atualiza sozinha quando estiver pronto.",
    ),
    superseded: message(
        "Você já conectou {bank} de novo",
        "A nova conexão funciona, então você não precisa fazer nada. Se também precisar da anterior, ainda pode conectá-la.",
    ),
    superseded_and_broken: message(
        "Você já conectou {bank} de novo",
        "A nova conexão também precisa de você: abra a mensagem mais recente de {brand}. Se precisar da anterior, pode conectá-la aqui.",
    ),
    checking: message(
        "Estamos verificando a conexão",
        "Isso leva alguns segundos, às vezes alguns minutos. Você pode fechar esta página.",
    ),
    still_checking: message(
        "O banco ainda não confirmou",
        "Isso pode levar alguns minutos; você pode fechar esta página. Se algo deu errado na página anterior, tente novamente.",
    ),
    all_set: message("Tudo pronto", "{bank} está conectado novamente. Você não precisa fazer mais nada."),
    already_repaired: message("Já está resolvido", "{bank} está conectado novamente. Você não precisa fazer nada."),
    replaced: message(
        "Este link não vale mais",
        "Ele é de uma mensagem anterior. Se {brand} enviou uma mais nova, abra o link dela. Se não, por enquanto não há nada a fazer: \
         {brand} escreverá quando for preciso.",
    ),
    removed: message(
        "Esta conexão foi removida",
        "Não há mais nada para consertar. Para usar {bank} outra vez, conecte-o de novo em {brand}.",
    ),
    expired: message(
        "Este link expirou",
        "Para sua segurança, os links funcionam por tempo limitado. Abra a mensagem mais recente de {brand} ou conecte novamente \
         em {brand}.",
    ),
    unknown: message(
        "Este link não funciona",
        "Talvez não esteja completo. Abra outra vez o link da sua mensagem ou copie-o inteiro no navegador.",
    ),
    not_now: message("Tente novamente em breve", "No momento não é possível mostrar esta página. Nada se perde."),
    opening: message("Conecte {bank} novamente", "A página segura está abrindo."),
    start: "Conectar agora",
    renew: "Renovar agora",
    start_again: "Abrir a página de novo",
    try_again: "Tentar novamente",
    back: "Voltar para {brand}",
    privacy: "Você digita seus dados em uma página segura da Belvo, que conecta bancos, e {brand} não vê sua senha.",
    privacy_consent: "Seu nome e documento são enviados à Belvo, que conecta bancos. Eles não são guardados aqui.",
    name: "Nome completo",
    document: "CPF ou CNPJ",
    document_hint: "11 dígitos para CPF, 14 caracteres para CNPJ",
    name_wrong: "Digite seu nome completo.",
    document_wrong: "Digite todos os caracteres do seu CPF ou CNPJ.",
    bank_down: "{bank} não está funcionando bem no momento. A culpa não é sua, e por enquanto você não precisa fazer nada.",
    bank_down_and_promised: "{bank} não está funcionando bem no momento. A culpa não é sua, e por enquanto você não precisa fazer nada: \
                             {brand} vai escrever para você quando voltar a funcionar.",
    cannot_start: "No momento não é possível abrir a página segura. Tente novamente em alguns minutos.",
    support: "Precisa de ajuda?",
    languages: "Idioma",
    without_script: "O próximo passo desta página precisa de JavaScript.",
    open_hosted: "Continuar sem JavaScript",
};
