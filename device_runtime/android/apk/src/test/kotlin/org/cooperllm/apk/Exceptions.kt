package org.cooperllm.apk

/** References that minSdk lacks and that are in order: [user] and [reference] are regular expressions for all of the name. */
internal data class Exception(
    val user: Regex,
    val reference: Regex,
    val reason: String,
) {
    fun covers(missing: Missing) = user.matches(missing.user) && reference.containsMatchIn(missing.reference)
}

/** All of them. */
internal val EXCEPTIONS =
    listOf(
        Exception(
            Regex(".*"),
            Regex("""^(\S+ )?sun\.misc\.Unsafe($|\.)"""),
            "in every Android, though not in its public API: R8 itself writes these calls for atomic field updaters, " +
                "and protobuf asks first whether they are there",
        ),
        Exception(
            Regex("""org\.cooperllm\.android\.DeviceConditions(\$\d+)?"""),
            Regex("""PowerManager\.getCurrentThermalStatus\(\)"""),
            "called after asking for Android 10; R8 moves it into a class of its own",
        ),
        Exception(
            Regex("""kotlinx\.coroutines\.internal\.ClassValueCtorCache(\$.+)?"""),
            Regex("""\bClassValue\."""),
            "coroutines ask first whether they run on Android, and then use a weak map",
        ),
    )
